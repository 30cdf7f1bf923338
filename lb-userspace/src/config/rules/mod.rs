//! What must hold in a configuration, wherever it comes from. Pure functions over the model.

pub(super) mod bounds;
mod host;
mod pool;

use std::{
    collections::{HashMap, HashSet},
    fmt::Display,
    net::IpAddr,
    ops::RangeInclusive,
    time::Duration,
};

use super::{
    error::{ConfigErrors, Problem},
    value::format_duration,
};
use lb_common::abi::SLOTS_PER_PAGE;

use crate::model::{Backend, Config, Protocol, Service, ServiceId};

/// Checks a whole configuration.
///
/// # Errors
/// [`ConfigErrors`] with everything that is wrong, without places in a file.
pub fn validate(config: &Config) -> Result<(), ConfigErrors> {
    ConfigErrors::check(check(config))
}

/// Checks a service that is to be added to a valid configuration. Keys in the errors start at the service: `vip`,
/// `backend[0].weight`.
///
/// # Errors
/// [`ConfigErrors`] with everything that is wrong with the service or would be by adding it.
pub fn validate_service(service: &Service, config: &Config) -> Result<(), ConfigErrors> {
    let mut candidate = config.clone();
    let prefix = format!("service[{}].", candidate.services.len());
    candidate.services.push(service.clone());
    ConfigErrors::check(new_problems(config, &candidate, &prefix))
}

/// Checks a backend that is to be added to a service of a valid configuration. Keys in the errors start at the backend:
/// `address`, `weight`.
///
/// # Errors
/// [`ConfigErrors`] with everything that is wrong with the backend or would be by adding it.
pub fn validate_backend(backend: &Backend, service: &Service, config: &Config) -> Result<(), ConfigErrors> {
    let mut candidate = config.clone();
    let place = candidate
        .services
        .iter()
        .position(|other| other.id == service.id)
        .unwrap_or(candidate.services.len());
    let prefix = format!("service[{place}].backend[{}].", service.backends.len());
    let mut service = service.clone();
    service.backends.push(backend.clone());
    match candidate.services.get_mut(place) {
        Some(slot) => *slot = service,
        None => candidate.services.push(service),
    }
    ConfigErrors::check(new_problems(config, &candidate, &prefix))
}

fn new_problems(before: &Config, after: &Config, prefix: &str) -> Vec<Problem> {
    let known = check(before);
    let mut problems = check(after);
    problems.retain(|problem| !known.contains(problem));
    for problem in &mut problems {
        if let Some(key) = problem.key.strip_prefix(prefix) {
            problem.key = key.to_owned();
        }
    }
    problems
}

/// All problems of a configuration.
pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    host::check(config, &mut problems);
    counts(config, &mut problems);
    for (index, service) in config.services.iter().enumerate() {
        pool::check(&format!("service[{index}]"), service, config, &mut problems);
    }
    unique_services(&config.services, &mut problems);
    loops(&config.services, &mut problems);
    problems
}

/// The maps have room for what is configured.
fn counts(config: &Config, problems: &mut Vec<Problem>) {
    let services = config.services.len();
    let backends = config
        .services
        .iter()
        .map(|service| service.backends.len())
        .sum::<usize>();
    let keys = |ipv4: bool| {
        let of_family = config.services.iter().filter(|s| s.id.vip.is_ipv4() == ipv4);
        of_family.map(|service| service.keys().count()).sum::<usize>()
    };
    let counts = [
        ("services", services, config.limits.services),
        (
            "service-ports",
            keys(true).max(keys(false)),
            config.limits.service_ports,
        ),
        ("backends", backends, config.limits.backends),
    ];
    slots(config, problems);
    for (what, count, limit) in counts {
        if usize::try_from(limit).is_ok_and(|limit| count > limit) {
            let problem = Problem::new(
                format!("limits.{what}"),
                format!("{count} {} are configured, and {limit} fit", what.replace('-', " ")),
            );
            problems.push(problem.value(limit).expected(format!("at least {count}")));
        }
    }
}

/// Each Maglev table fits twice: as it is, and while it changes. A third time, as it was before the last change, is
/// given up early where there is no room for it.
fn slots(config: &Config, problems: &mut Vec<Problem>) {
    let hashed = config.services.iter().filter(|s| s.scheduler.by_hash());
    let tables: u64 = hashed
        .map(|s| u64::from(s.scheduling.maglev_table_size.next_multiple_of(SLOTS_PER_PAGE)))
        .sum();
    let limit = config.limits.slots;
    if tables * 2 > u64::from(limit) {
        let message = format!("the Maglev tables have {tables} slots, and two of each do not fit into {limit}");
        let problem = Problem::new("limits.slots", message).value(limit);
        problems.push(problem.expected(format!("{} or more", tables * 3)));
    }
}

fn unique_services(services: &[Service], problems: &mut Vec<Problem>) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut ids: HashMap<ServiceId, (usize, &str)> = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        let name = service.name.as_str();
        if let Some(first) = names.get(name) {
            problems.push(
                Problem::new(
                    format!("service[{index}].name"),
                    format!("there is another service `{name}`"),
                )
                .value(name)
                .expected("a unique name")
                .related(format!("service[{first}].name"), "the other one")
                .conflict(),
            );
        }
        names.entry(name).or_insert(index);
        overlap(index, service, &ids, problems);
        for key in service.keys() {
            ids.entry(key).or_insert((index, name));
        }
    }
}

/// One port of a VIP belongs to one service. A service on all ports takes those that are left, so it overlaps with none.
fn overlap(index: usize, service: &Service, taken: &HashMap<ServiceId, (usize, &str)>, problems: &mut Vec<Problem>) {
    let Some((key, (first, other))) = service.keys().find_map(|key| Some((key, taken.get(&key)?))) else {
        return;
    };
    let what = if key.vip.port() == 0 {
        service.address()
    } else {
        key.to_string()
    };
    let problem = Problem::new(
        format!("service[{index}].vip"),
        format!("{what} is the VIP of service `{other}` already"),
    );
    problems.push(
        problem
            .value(service.address())
            .expected("another address, port or protocol; or put the backends into one service")
            .related(format!("service[{first}].vip"), format!("service `{other}`"))
            .conflict(),
    );
}

/// No backend is a VIP: packets would come back to the load balancer.
fn loops(services: &[Service], problems: &mut Vec<Problem>) {
    let mut vips: HashMap<IpAddr, Vec<usize>> = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        vips.entry(service.id.vip.ip()).or_default().push(index);
    }
    for (index, service) in services.iter().enumerate() {
        for (place, backend) in service.backends.iter().enumerate() {
            let goes_round = |vip: &Service| {
                let port = backend.address.port();
                let shared = |p| vip.covers_protocol(p) && service.covers_protocol(p);
                (port == 0 || vip.covers_port(port)) && (shared(Protocol::Tcp) || shared(Protocol::Udp))
            };
            let owners = vips.get(&backend.address.ip()).into_iter().flatten();
            let mut owners = owners.filter_map(|at| Some((*at, services.get(*at)?)));
            let Some((owner, vip_owner)) = owners.find(|(_, vip)| goes_round(vip)) else {
                continue;
            };
            let id = vip_owner.address();
            let whose = if owner == index {
                "this service".to_owned()
            } else {
                format!("service `{}`", vip_owner.name)
            };
            let message = format!(
                "backend `{}` of service `{}` is the VIP {id} of {whose}: packets would go round in a loop",
                backend.name, service.name
            );
            problems.push(
                Problem::new(format!("service[{index}].backend[{place}].address"), message)
                    .value(backend.address)
                    .expected("the address of a server")
                    .related(format!("service[{owner}].vip"), "the VIP"),
            );
        }
    }
}

/// An idle timeout of flows.
pub(super) fn flow_timeout(key: &str, timeout: Duration) -> Option<Problem> {
    let mut problems = Vec::new();
    duration_within(key, timeout, &bounds::FLOW_TIMEOUT, &mut problems);
    problems.pop()
}

fn duration_within(key: &str, value: Duration, range: &RangeInclusive<Duration>, problems: &mut Vec<Problem>) {
    let expected = format!(
        "{} to {}",
        format_duration(*range.start()),
        format_duration(*range.end())
    );
    duration_as_expected(key, value, range, &expected, problems);
}

/// As [`duration_within`], where the range alone does not say what is expected.
fn duration_as_expected(
    key: &str,
    value: Duration,
    range: &RangeInclusive<Duration>,
    expected: &str,
    problems: &mut Vec<Problem>,
) {
    if range.contains(&value) {
        return;
    }
    let value = format_duration(value);
    problems.push(
        Problem::new(key, format!("{value} is out of range"))
            .value(value)
            .expected(expected),
    );
}

fn within<T: PartialOrd + Display>(key: &str, value: &T, range: &RangeInclusive<T>, problems: &mut Vec<Problem>) {
    if range.contains(value) {
        return;
    }
    let expected = format!("an integer from {} to {}", range.start(), range.end());
    problems.push(
        Problem::new(key, format!("{value} is out of range"))
            .value(value)
            .expected(expected),
    );
}

/// Reports every item that came before; `key_of` makes the key of the item with an index.
fn duplicates<T: Eq + std::hash::Hash + Display>(
    items: impl Iterator<Item = T>,
    key_of: impl Fn(usize) -> String,
    what: &str,
    problems: &mut Vec<Problem>,
) {
    let mut firsts: HashMap<T, usize> = HashMap::new();
    for (index, item) in items.enumerate() {
        if let Some(first) = firsts.get(&item) {
            problems.push(
                Problem::new(key_of(index), format!("{item} is {what}"))
                    .value(&item)
                    .expected("each only once")
                    .related(key_of(*first), "the first one")
                    .conflict(),
            );
        } else {
            firsts.insert(item, index);
        }
    }
}

/// The names of all interfaces, if any is unknown because it could not be read.
fn interface_names(config: &Config) -> Option<HashSet<&str>> {
    let names: HashSet<&str> = config
        .interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    (!names.contains("")).then_some(names)
}
