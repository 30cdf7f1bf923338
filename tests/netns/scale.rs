//! A part of what `cargo xtask bench --only scale` loads.

use lb_tests::scale::{Size, measure};

#[test]
fn fifty_services_of_a_hundred_backends_work_with_a_hundred_thousand_flows() {
    let taken = measure(Size {
        services: 50,
        backends: 100,
        flows: 100_000,
    });
    println!("{taken:#?}");
}
