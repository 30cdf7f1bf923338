//! Requests of the control interface.

use lb_common::abi::ABI_VERSION;
use tokio::sync::oneshot;

use super::{
    Call, Controller, ControllerError, climb,
    flows::Question,
    ports::{Health, Network},
    saver::Snapshot,
};
use crate::{
    api::{ApiError, ErrorKind, Reply, Request, VersionReport},
    datapath::Datapath,
    model::ServiceId,
    state::{self, Change, Desired},
};

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Answers a request, now or when what it needs is there.
    pub(super) fn on_request(&mut self, (request, reply): Call) {
        let answer = match &request {
            Request::Status => self.status().map(|status| Reply::Status {
                status: Box::new(status),
            }),
            Request::Version => Ok(Reply::Version { version: version() }),
            Request::ServiceList => self.service_reports().map(|services| Reply::Services { services }),
            Request::Flows { limit, filter, from } => {
                return self.begin_flows(Question::List(*limit, *from), filter, reply);
            }
            Request::FlowCounts { filter } => return self.begin_flows(Question::Count, filter, reply),
            Request::FlowsKill { filter } => return self.begin_flows(Question::Kill, filter, reply),
            // It ends the event loop, which is where it is answered.
            Request::Shutdown => Err(state::error(ErrorKind::Invalid, "the daemon is ending already")),
            Request::ServiceAdd { .. } => {
                // Said before 300 ms are spent on asking the link for the VIP.
                if let Err(error) = self.desired.apply(&request, &self.rules, self.today()) {
                    Err(error)
                } else {
                    let Some((request, reply)) = self.wait_for_vip((request, reply)) else {
                        return;
                    };
                    return self.answer_change(&request, reply);
                }
            }
            Request::ServiceRemove { service } => {
                let vip = self.desired.service(service).map(|s| s.id.vip.ip());
                let answer = self.change(&request);
                return match (vip, answer) {
                    (Ok(vip), Ok(done)) => self.answer_without(vip, reply, done),
                    (_, answer) => answer_with(reply, answer),
                };
            }
            Request::ServiceSet { .. }
            | Request::BackendAdd { .. }
            | Request::BackendSet { .. }
            | Request::BackendRemove { .. }
            | Request::Attach { .. }
            | Request::Detach { .. } => return self.answer_change(&request, reply),
        };
        answer_with(reply, answer);
    }

    fn answer_change(&mut self, request: &Request, reply: oneshot::Sender<Reply>) {
        match self.change(request) {
            Ok(done) => self.answer_saved(reply, done),
            error => answer_with(reply, error),
        }
    }

    /// Answers once what led to the answer is on file.
    pub(super) fn answer_saved(&self, reply: oneshot::Sender<Reply>, done: Reply) {
        self.saver.then(move || answer_with(reply, Ok(done)));
    }

    /// Carries out a change whole, or takes it back.
    fn change(&mut self, request: &Request) -> Result<Reply, ApiError> {
        let (next, change) = self.desired.apply(request, &self.rules, self.today())?;
        let before = std::mem::replace(&mut self.desired, next);
        if let Err(error) = self.carry_out(request, &change) {
            self.take_back(before, &change);
            return Err(error);
        }
        // Not before all is done: what is known of backends that go would be missed if they had to stay.
        self.retarget_changed(&before, &ids_of(&change));
        if !matches!(
            request,
            Request::ServiceSet { .. }
                | Request::BackendAdd { .. }
                | Request::BackendSet { .. }
                | Request::BackendRemove { .. }
        ) {
            self.ensure_vips();
        }
        self.changes += 1;
        self.save();
        let mut message = change.message;
        tracing::info!("{}", message.replace('\n', "; "));
        for service in change.touched.iter().filter_map(|id| self.desired.by_id(*id)) {
            if self.outlooks.get(&service.id).is_some_and(|o| o.tier.serving.is_none()) {
                message.push_str(&format!(
                    "\nwarning: service {}: no backend can take new flows",
                    service.name
                ));
            }
        }
        Ok(Reply::Done { message })
    }

    fn carry_out(&mut self, request: &Request, change: &Change) -> Result<(), ApiError> {
        let system = |message: String| state::error(ErrorKind::System, message);
        if let Request::Attach { interface } = request {
            self.attach(interface)
                .map_err(|e| state::error(e.kind(), e.to_string()))?;
        } else if let Request::Detach { interface } = request {
            self.detach(interface).map_err(|e| system(e.to_string()))?;
        }
        for id in ids_of(change) {
            self.publish(id)
                .map_err(|e| system(format!("nothing was changed: {e}")))?;
        }
        if let Some(id) = change.removed {
            self.departed.remove(&id);
        }
        Ok(())
    }

    /// Back to what was wanted before: by the same way, so that packets see no half of that either.
    fn take_back(&mut self, before: Desired, change: &Change) {
        self.desired = before;
        self.publish_or_retry(&ids_of(change));
        self.ensure_vips();
    }

    /// Has what must survive the daemon written down.
    pub(super) fn save(&self) {
        self.saver.save(Snapshot {
            desired: self.desired.clone(),
            changes: self.changes,
            vips: self.own_vips(),
            departed: self.departed.iter().map(|(id, c)| (*id, *c)).collect(),
            climbing: climb::save(&self.world, self.now(), self.today()),
        });
    }
}

/// What is answered to a request to shut down.
pub(super) fn shutdown_reply(result: &Result<(), ControllerError>) -> Reply {
    match result {
        Ok(()) => Reply::Done {
            message: "detached: links, maps, addresses and neighbours are gone, and the daemon ends".to_owned(),
        },
        Err(error) => Reply::Error {
            error: state::error(ErrorKind::System, error.to_string()),
        },
    }
}

fn answer_with(reply: oneshot::Sender<Reply>, answer: Result<Reply, ApiError>) {
    // The client may be gone; what it asked for is done all the same.
    drop(reply.send(answer.unwrap_or_else(|error| Reply::Error { error })));
}

fn ids_of(change: &Change) -> Vec<ServiceId> {
    change.touched.iter().copied().chain(change.removed).collect()
}

fn version() -> VersionReport {
    VersionReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: ABI_VERSION,
    }
}
