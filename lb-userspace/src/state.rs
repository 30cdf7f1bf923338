//! What is wanted now: the configuration, and what the operator changed since. Pure.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    api::{ApiError, BackendChange, ErrorKind, Request, ServiceChange, backend_matches, service_matches},
    model::{AdminState, Backend, Config, Interface, Scheduling, Service, ServiceId, endpoint_name},
};

/// Heaviest weight.
const MAX_WEIGHT: u16 = 256;

/// Services and interfaces as they are wanted now. A copy shares its services with the original, so that a change costs
/// the service that it touches and not the others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Services, in the order they were added.
    pub services: Vec<Arc<Service>>,
    /// Interfaces that carry the packet path.
    pub interfaces: Vec<Interface>,
}

/// What is wrong with a service that is to stand beside those others, in words.
pub type ServiceRule = dyn Fn(&Service, &[Arc<Service>]) -> Result<(), String> + Send + Sync;
/// What is wrong with a backend that is to join a service, in words; the services are all there are.
pub type BackendRule = dyn Fn(&Backend, &Service, &[Arc<Service>]) -> Result<(), String> + Send + Sync;

/// The rules that the configuration is held to, for services and backends that come while the daemon runs.
pub struct Rules {
    /// For services.
    pub service: Box<ServiceRule>,
    /// For backends.
    pub backend: Box<BackendRule>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rules")
    }
}

/// What a request changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// For the operator.
    pub message: String,
    /// Services that are new or changed.
    pub touched: Vec<ServiceId>,
    /// The service that is gone.
    pub removed: Option<ServiceId>,
}

impl Change {
    fn touching(id: ServiceId, message: String) -> Self {
        Self {
            message,
            touched: vec![id],
            removed: None,
        }
    }
}

fn refuse<T>(kind: ErrorKind, message: impl Into<String>) -> Result<T, ApiError> {
    Err(error(kind, message))
}

pub(crate) fn error(kind: ErrorKind, message: impl Into<String>) -> ApiError {
    ApiError {
        kind,
        message: message.into(),
    }
}

impl Desired {
    /// What a configuration asks for.
    #[must_use]
    pub fn of_config(config: &Config) -> Self {
        Self {
            services: config.services.iter().cloned().map(Arc::new).collect(),
            interfaces: config.interfaces.clone(),
        }
    }

    /// What is wanted after a request that comes `now`, in seconds since the Unix epoch, and what that changes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] lists what there is, [`ErrorKind::Conflict`] names what stands in the way, and
    /// [`ErrorKind::Invalid`] says what was expected; also for requests that change nothing that is wanted.
    pub fn apply(&self, request: &Request, rules: &Rules, now: u64) -> Result<(Self, Change), ApiError> {
        let mut next = self.clone();
        let change = match request {
            Request::ServiceAdd { service } => next.add_service(service, rules),
            Request::ServiceSet { service, change } => next.set_service(service, change, rules),
            Request::ServiceRemove { service } => next.remove_service(service),
            Request::BackendAdd { service, backend } => next.add_backend(service, backend, rules),
            Request::BackendSet {
                service,
                backend,
                change,
            } => next.set_backends(service, backend, change, now),
            Request::BackendRemove { service, backend } => next.remove_backend(service, backend),
            Request::Attach { interface } => next.attach(interface),
            Request::Detach { interface } => next.detach(interface),
            Request::Status
            | Request::Version
            | Request::ServiceList
            | Request::Shutdown
            | Request::Flows { .. }
            | Request::FlowCounts { .. }
            | Request::FlowsKill { .. } => refuse(ErrorKind::Invalid, "this request changes no service"),
        }?;
        Ok((next, change))
    }

    /// A service by name or `VIP:PORT/PROTOCOL`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn service(&self, wanted: &str) -> Result<&Service, ApiError> {
        let found = self.services.iter().find(|s| service_matches(s, wanted));
        found
            .map(AsRef::as_ref)
            .ok_or_else(|| no_service(&self.services, wanted))
    }

    /// A service by identity.
    #[must_use]
    pub fn by_id(&self, id: ServiceId) -> Option<&Service> {
        self.services.iter().find(|s| s.id == id).map(AsRef::as_ref)
    }

    fn service_mut(&mut self, wanted: &str) -> Result<&mut Service, ApiError> {
        match self.services.iter().position(|s| service_matches(s, wanted)) {
            Some(at) => {
                let service = self.services.get_mut(at).map(Arc::make_mut);
                service.ok_or_else(|| no_service(&[], wanted))
            }
            None => Err(no_service(&self.services, wanted)),
        }
    }

    fn add_service(&mut self, service: &Service, rules: &Rules) -> Result<Change, ApiError> {
        if let Some(other) = self.services.iter().find(|s| s.name == service.name) {
            let message = format!(
                "there is a service `{}` already, on {}; choose another name",
                other.name, other.id
            );
            return refuse(ErrorKind::Conflict, message);
        }
        if let Some(other) = self.services.iter().find(|s| s.id == service.id) {
            let message = format!(
                "{} belongs to service `{}` already; choose another port or remove that service first",
                other.id, other.name
            );
            return refuse(ErrorKind::Conflict, message);
        }
        let mut service = service.clone();
        let mut backends = std::mem::take(&mut service.backends);
        backends.iter_mut().for_each(|backend| service.complete(backend));
        service.backends = backends;
        (rules.service)(&service, &self.services).or_else(|m| refuse(ErrorKind::Invalid, m))?;
        self.services.push(Arc::new(service.clone()));
        let n = service.backends.len();
        let message = format!(
            "service {} on {} added, with {}",
            service.name,
            service.address(),
            count(n, "backend")
        );
        Ok(Change::touching(service.id, message))
    }

    fn set_service(&mut self, wanted: &str, change: &ServiceChange, rules: &Rules) -> Result<Change, ApiError> {
        let id = self.service(wanted)?.id;
        let others: Vec<_> = self.services.iter().filter(|s| s.id != id).cloned().collect();
        let service = self.service_mut(wanted)?;
        let mut words = Vec::new();
        set(&mut service.on_down, change.on_down, "on-down", &mut words);
        set(&mut service.failback, change.failback, "failback", &mut words);
        set(&mut service.scheduler, change.scheduler, "scheduler", &mut words);
        if let Some(scheduling) = change.scheduling.filter(|s| *s != service.scheduling) {
            words.extend(scheduling_words(&service.scheduling, &scheduling));
            service.scheduling = scheduling;
        }
        if let Some(timeouts) = change.timeouts.filter(|t| *t != service.timeouts) {
            service.timeouts = timeouts;
            words.push("timeouts changed".to_owned());
        }
        (rules.service)(service, &others).or_else(|m| refuse(ErrorKind::Invalid, m))?;
        Ok(Change::touching(
            service.id,
            changed(&format!("service {}", service.name), &words),
        ))
    }

    fn remove_service(&mut self, wanted: &str) -> Result<Change, ApiError> {
        let id = self.service(wanted)?.id;
        let (name, address) = (self.service(wanted)?.name.clone(), self.service(wanted)?.address());
        self.services.retain(|s| s.id != id);
        Ok(Change {
            message: format!("service {name} on {address} removed"),
            touched: Vec::new(),
            removed: Some(id),
        })
    }

    fn add_backend(&mut self, wanted: &str, backend: &Backend, rules: &Rules) -> Result<Change, ApiError> {
        let all = self.services.clone();
        let service = self.service_mut(wanted)?;
        let mut backend = backend.clone();
        service.complete(&mut backend);
        if let Some(other) = service.backends.iter().find(|b| b.name == backend.name) {
            let message = format!(
                "service `{}` has a backend `{}` already, at {}; choose another name",
                service.name, other.name, other.address
            );
            return refuse(ErrorKind::Conflict, message);
        }
        if let Some(other) = service.backends.iter().find(|b| b.address == backend.address) {
            let message = format!(
                "service `{}` has {} already, as `{}`",
                service.name, other.address, other.name
            );
            return refuse(ErrorKind::Conflict, message);
        }
        check_weight(backend.weight)?;
        (rules.backend)(&backend, service, &all).or_else(|m| refuse(ErrorKind::Invalid, m))?;
        service.backends.push(backend.clone());
        let message = format!(
            "backend {} at {} added to service {}",
            backend.name,
            endpoint_name(backend.address),
            service.name
        );
        Ok(Change::touching(service.id, message))
    }

    fn set_backends(
        &mut self,
        wanted: &str,
        backend: &str,
        change: &BackendChange,
        now: u64,
    ) -> Result<Change, ApiError> {
        change.weight.map_or(Ok(()), check_weight)?;
        if wanted != "*" {
            let service = self.service_mut(wanted)?;
            let id = service.id;
            let words = set_backend(service, backend, change, now)?;
            return Ok(Change::touching(id, words));
        }
        let mut touched = Vec::new();
        let mut messages = Vec::new();
        for service in &mut self.services {
            if service.backends.iter().any(|b| backend_matches(b, backend)) {
                messages.push(set_backend(Arc::make_mut(service), backend, change, now)?);
                touched.push(service.id);
            }
        }
        if touched.is_empty() {
            let all: Vec<_> = self
                .services
                .iter()
                .flat_map(|s| &s.backends)
                .map(|b| b.name.as_str())
                .collect();
            return Err(not_found("backend", backend, "any service", &all));
        }
        Ok(Change {
            message: messages.join("\n"),
            touched,
            removed: None,
        })
    }

    fn remove_backend(&mut self, wanted: &str, backend: &str) -> Result<Change, ApiError> {
        let service = self.service_mut(wanted)?;
        let at = position(service, backend)?;
        let removed = service.backends.remove(at);
        let message = format!("backend {} removed from service {}", removed.name, service.name);
        Ok(Change::touching(service.id, message))
    }

    fn attach(&mut self, interface: &Interface) -> Result<Change, ApiError> {
        if self.interfaces.iter().any(|i| i.name == interface.name) {
            let message = format!("lb is attached to {} already", interface.name);
            return refuse(ErrorKind::Conflict, message);
        }
        self.interfaces.push(interface.clone());
        Ok(Change {
            message: format!("attached to {}", interface.name),
            ..Change::default()
        })
    }

    fn detach(&mut self, interface: &str) -> Result<Change, ApiError> {
        let Some(at) = self.interfaces.iter().position(|i| i.name == interface) else {
            let names: Vec<_> = self.interfaces.iter().map(|i| i.name.as_str()).collect();
            return Err(not_found("attached interface", interface, "this instance", &names));
        };
        self.interfaces.remove(at);
        let last = if self.interfaces.is_empty() {
            "; that was the last one: lb sees no packets now"
        } else {
            ""
        };
        Ok(Change {
            message: format!("detached from {interface}{last}"),
            ..Change::default()
        })
    }
}

fn set<T: PartialEq + fmt::Display>(value: &mut T, new: Option<T>, name: &str, words: &mut Vec<String>) {
    if let Some(new) = new.filter(|new| *new != *value) {
        words.push(format!("{name} {value} -> {new}"));
        *value = new;
    }
}

fn changed(what: &str, words: &[String]) -> String {
    if words.is_empty() {
        format!("{what}: nothing to change")
    } else {
        format!("{what}: {}", words.join(", "))
    }
}

/// What changes about how flows are scheduled, in the words of the configuration.
fn scheduling_words(old: &Scheduling, new: &Scheduling) -> Vec<String> {
    let span = |d: Duration| {
        if d.is_zero() {
            "off".to_owned()
        } else {
            humantime::format_duration(d).to_string()
        }
    };
    let words = |s: &Scheduling| {
        [
            ("maglev-table-size", s.maglev_table_size.to_string()),
            ("rehash-window", span(s.rehash_window)),
            ("affinity", span(s.affinity)),
            ("one-packet", s.one_packet.to_string()),
            ("slow-start", span(s.slow_start)),
            ("drain-timeout", span(s.drain_timeout)),
            ("syn-cookies", s.syn_cookies.to_string()),
            ("flow-tracking", s.flow_tracking.to_string()),
        ]
    };
    let both = words(old).into_iter().zip(words(new));
    both.filter(|(old, new)| old != new)
        .map(|((name, old), (_, new))| format!("{name} {old} -> {new}"))
        .collect()
}

fn set_backend(service: &mut Service, wanted: &str, change: &BackendChange, now: u64) -> Result<String, ApiError> {
    let at = position(service, wanted)?;
    let default_timeout = Some(service.scheduling.drain_timeout).filter(|t| !t.is_zero());
    let Some(backend) = service.backends.get_mut(at) else {
        return Ok(String::new());
    };
    let mut words = Vec::new();
    set(&mut backend.weight, change.weight, "weight", &mut words);
    set(&mut backend.tier, change.tier, "tier", &mut words);
    set::<AdminState>(&mut backend.admin, change.admin, "state", &mut words);
    let limit = change.max_connections.map(|limit| Some(limit).filter(|n| *n > 0));
    if let Some(limit) = limit.filter(|limit| *limit != backend.max_connections) {
        let word = |limit: Option<u32>| limit.map_or_else(|| "off".to_owned(), |limit| limit.to_string());
        words.push(format!(
            "max-connections {} -> {}",
            word(backend.max_connections),
            word(limit)
        ));
        backend.max_connections = limit;
    }
    match change.admin {
        Some(AdminState::Drain) => {
            let timeout = change.drain_timeout.or(default_timeout);
            backend.drain_until = timeout.map(|t| now + t.as_secs());
            words.extend(timeout.map(|t| format!("for {} at most", humantime::format_duration(t))));
        }
        Some(AdminState::Enabled | AdminState::Disabled) => backend.drain_until = None,
        None => {}
    }
    Ok(changed(
        &format!("service {}: backend {}", service.name, backend.name),
        &words,
    ))
}

fn position(service: &Service, wanted: &str) -> Result<usize, ApiError> {
    let found = service.backends.iter().position(|b| backend_matches(b, wanted));
    found.ok_or_else(|| {
        let names: Vec<_> = service.backends.iter().map(|b| b.name.as_str()).collect();
        not_found("backend", wanted, &format!("service `{}`", service.name), &names)
    })
}

fn check_weight(weight: u16) -> Result<(), ApiError> {
    if weight > MAX_WEIGHT {
        return refuse(
            ErrorKind::Invalid,
            format!("weight {weight} is out of range: 0 to {MAX_WEIGHT} are allowed"),
        );
    }
    Ok(())
}

fn no_service(services: &[Arc<Service>], wanted: &str) -> ApiError {
    let names: Vec<_> = services.iter().map(|s| s.name.as_str()).collect();
    not_found("service", wanted, "this instance", &names)
}

/// Names what there is, and the nearest of it.
fn not_found(what: &str, wanted: &str, place: &str, names: &[&str]) -> ApiError {
    const LISTED: usize = 10;
    let distance = |name: &&&str| strsim::damerau_levenshtein(name, wanted);
    let nearest = names.iter().min_by_key(distance);
    let hint = match nearest.filter(|n| distance(n) <= (wanted.len() / 3).max(1)) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    };
    let mut listed: Vec<&str> = names.iter().take(LISTED).copied().collect();
    let more = format!("and {} more", names.len().saturating_sub(LISTED));
    if names.len() > LISTED {
        listed.push(&more);
    }
    let there = if names.is_empty() {
        "has none".to_owned()
    } else {
        format!("has {}", listed.join(", "))
    };
    error(
        ErrorKind::NotFound,
        format!("no {what} `{wanted}`: {place} {there}{hint}"),
    )
}

/// `1 backend`, `2 backends`.
#[must_use]
pub fn count(n: usize, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing::{backend, service};

    fn rules() -> Rules {
        let port = |port| if port == 0 { Err("port 0".to_owned()) } else { Ok(()) };
        Rules {
            service: Box::new(move |s, _| port(s.id.vip.port())),
            backend: Box::new(move |b, _, _| port(b.address.port())),
        }
    }

    fn desired() -> Desired {
        Desired {
            services: vec![
                Arc::new(service("web", 80, &[backend("web1", 1), backend("web2", 2)])),
                Arc::new(service("dns", 53, &[backend("web1", 1)])),
            ],
            interfaces: Vec::new(),
        }
    }

    fn refused(request: Request) -> (ErrorKind, String) {
        let before = desired();
        let error = before.apply(&request, &rules(), 1000).unwrap_err();
        (error.kind, error.message)
    }

    fn set_request(service: &str, backend: &str, change: BackendChange) -> Request {
        Request::BackendSet {
            service: service.into(),
            backend: backend.into(),
            change,
        }
    }

    #[test]
    fn names_that_are_not_there_are_answered_with_those_that_are() {
        let (kind, message) = refused(Request::ServiceRemove { service: "wbe".into() });
        assert_eq!(kind, ErrorKind::NotFound);
        assert_eq!(
            message,
            "no service `wbe`: this instance has web, dns; did you mean `web`?"
        );
        let (kind, message) = refused(Request::BackendRemove {
            service: "web".into(),
            backend: "web3".into(),
        });
        assert_eq!(kind, ErrorKind::NotFound);
        assert_eq!(
            message,
            "no backend `web3`: service `web` has web1, web2; did you mean `web1`?"
        );
    }

    #[test]
    fn what_is_there_already_is_a_conflict() {
        let add = |service| {
            refused(Request::ServiceAdd {
                service: Box::new(service),
            })
        };
        assert_eq!(add(service("web", 81, &[])).0, ErrorKind::Conflict);
        let (kind, message) = add(service("other", 80, &[]));
        assert_eq!(kind, ErrorKind::Conflict);
        assert!(message.contains("`web`"), "{message}");
        let add = |backend| {
            refused(Request::BackendAdd {
                service: "web".into(),
                backend,
            })
            .0
        };
        assert_eq!(add(backend("web1", 9)), ErrorKind::Conflict);
        assert_eq!(add(backend("web9", 1)), ErrorKind::Conflict);
    }

    #[test]
    fn what_breaks_a_rule_is_invalid() {
        let broken = Box::new(service("new", 0, &[]));
        assert_eq!(
            refused(Request::ServiceAdd { service: broken }),
            (ErrorKind::Invalid, "port 0".into())
        );
        let heavy = BackendChange {
            weight: Some(257),
            ..BackendChange::default()
        };
        assert_eq!(refused(set_request("web", "web1", heavy)).0, ErrorKind::Invalid);
    }

    #[test]
    fn changes_say_what_changed() {
        let change = BackendChange {
            weight: Some(5),
            admin: Some(AdminState::Drain),
            tier: Some(0),
            drain_timeout: Some(Duration::from_secs(90)),
            max_connections: Some(50),
        };
        let before = desired();
        let (next, change) = before
            .apply(&set_request("web", "10.0.1.1:80", change), &rules(), 1000)
            .unwrap();
        assert_eq!(
            change.message,
            "service web: backend web1: weight 1 -> 5, state enabled -> drain, max-connections off -> 50, for 1m 30s at most"
        );
        assert_eq!(next.services[0].backends[0].weight, 5);
        assert_eq!(next.services[0].backends[0].drain_until, Some(1090));
        assert!(Arc::ptr_eq(&next.services[1], &before.services[1]), "no copy of others");
        assert_eq!(change.touched, [next.services[0].id]);
    }

    #[test]
    fn a_star_means_every_service() {
        let drain = BackendChange {
            admin: Some(AdminState::Drain),
            ..BackendChange::default()
        };
        let (next, change) = desired()
            .apply(&set_request("*", "web1", drain.clone()), &rules(), 1000)
            .unwrap();
        assert_eq!(change.touched.len(), 2);
        assert!(next.services.iter().all(|s| s.backends[0].admin == AdminState::Drain));
        assert_eq!(refused(set_request("*", "nobody", drain)).0, ErrorKind::NotFound);
    }
}
