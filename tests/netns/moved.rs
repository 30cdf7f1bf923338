//! Services that store flows only where their slot of the hash table moved: connections stay where they are, however the pool changes.

use std::time::Duration;

use lb_tests::{Lab, Service, Topology, client::Held, eventually, lab::Family};

use crate::backends::set_up_all;

/// Long enough that every connection says something within it, short enough to be over in a test.
const SET: &str =
    "scheduler = \"maglev\"\nmaglev-table-size = 1021\nflow-tracking = \"moved\"\nrehash-window = \"20s\"";
const CONNECTIONS: usize = 24;

fn web(lab: &Lab, family: Family, mode: &str) -> Service {
    let checks = "type = \"none\"";
    lab.web(family).health(checks).set(&format!("mode = {mode:?}\n{SET}"))
}

/// Every connection answers, from where it is.
#[track_caller]
fn all_answer(held: &mut [Held]) {
    for connection in held {
        let answer = connection.say("still there").unwrap();
        assert_eq!(answer, format!("{} still there", connection.server));
    }
}

/// How many flows are stored.
fn stored(lab: &Lab) -> usize {
    let flows = lab.lb(&["--json", "flows"]).success().json();
    flows["flows"].as_array().unwrap().len()
}

#[test]
fn connections_stay_while_the_pool_changes() {
    let lab = Lab::new(Topology::OneArm, 3);
    let _http = lab.serve_http();
    for (mode, family) in [("l2-dsr", Family::V4), ("ipip", Family::V6)] {
        let _backends = set_up_all(&lab, mode, family);
        let mut lb = lab.start(&lab.config().service(web(&lab, family, mode)));
        let vip = lab.vip(family, 80);
        let open = || -> Vec<Held> { (0..CONNECTIONS).map(|_| Held::open(vip).unwrap()).collect() };
        let mut held = lab.client.ns.run(open);
        all_answer(&mut held);
        assert_eq!(stored(&lab), 0, "{mode}");
        let counters = lb.service("web").counters;
        assert_eq!(
            (counters.new_flows, counters.active_flows),
            (CONNECTIONS as u64, 0),
            "{mode}"
        );

        let _done = lab.lb(&["backend", "drain", "web", "s1"]).success();
        all_answer(&mut held);
        let of_first = held.iter().filter(|connection| connection.server == "s1").count();
        assert!(
            (of_first..CONNECTIONS).contains(&stored(&lab)),
            "{mode}: those of slots that moved"
        );
        lb.kill();
        all_answer(&mut held);
        lb.restart();
        lb.wait_status("the packet path to be adopted", |status| status.adopted);
        all_answer(&mut held);
        let mut more = lab.client.ns.run(open);
        assert!(
            more.iter().all(|connection| connection.server != "s1"),
            "{mode}: drained"
        );
        all_answer(&mut more);

        let _done = lab.lb(&["backend", "enable", "web", "s1"]).success();
        all_answer(&mut held);
        all_answer(&mut more);

        let _done = lab.lb(&["backend", "remove", "web", "s3"]).success();
        held.extend(more);
        let (mut lost, mut kept): (Vec<_>, Vec<_>) = held.into_iter().partition(|c| c.server == "s3");
        all_answer(&mut kept);
        assert!(
            lost.iter_mut().all(|connection| connection.say("gone").is_err()),
            "{mode}"
        );

        // Once nothing is left from before, new connections are not stored again.
        drop(kept);
        drop(lost);
        let _killed = lab.lb(&["flows", "kill", "--all"]).success();
        eventually("the marks to go", Duration::from_secs(60), || {
            let mut held = lab.client.ns.run(open);
            all_answer(&mut held);
            drop(held);
            let left = stored(&lab);
            let _killed = lab.lb(&["flows", "kill", "--all"]).success();
            if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} flows are stored"))
            }
        });
        lb.detach();
    }
}
