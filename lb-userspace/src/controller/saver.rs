//! Writing the state file, off the way to a flip.
//!
//! A change is published first and written down after that, on a thread that may wait for the disk. What was answered is
//! on file: the answer waits for it, the flip does not. States are written in the order they came about; those that come
//! while one is written are merged into the newest of them.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::oneshot;

use super::{climb::SavedClimb, persist::StateFile};
use crate::{
    api::Counters,
    model::{Interface, Service, ServiceId},
    state::Desired,
};

/// What is to be written: [`Saved`](super::persist::Saved) without what never changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    pub(super) desired: Desired,
    pub(super) changes: u64,
    pub(super) vips: Vec<(IpAddr, String)>,
    pub(super) departed: Vec<(ServiceId, Counters)>,
    pub(super) climbing: Vec<SavedClimb>,
}

/// What waits until all is written that came before it.
type Then = Box<dyn FnOnce() + Send>;

/// Writes snapshots one after the other.
pub(super) struct Saver(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct Queue {
    /// Whether a thread is at it, which looks here again before it ends.
    running: bool,
    latest: Option<Snapshot>,
    then: Vec<Then>,
}

impl Saver {
    /// Writes to a file, beside what the configuration asks for.
    pub(super) fn new(file: StateFile, configured: Desired) -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::default(),
            writer: Mutex::new(Writer::new(file, configured)),
        }))
    }

    /// Has a state written, soon. Must be called within a tokio runtime.
    pub(super) fn save(&self, snapshot: Snapshot) {
        let mut queue = lock(&self.0.queue);
        queue.latest = Some(snapshot);
        if !std::mem::replace(&mut queue.running, true) {
            let shared = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || shared.work());
        }
    }

    /// Does something once all is written that came before; at once if it is.
    pub(super) fn then(&self, then: impl FnOnce() + Send + 'static) {
        let mut queue = lock(&self.0.queue);
        if queue.running {
            queue.then.push(Box::new(then));
        } else {
            drop(queue);
            then();
        }
    }

    /// Waits until all is written.
    pub(super) async fn flush(&self) {
        let (waiting, written) = oneshot::channel::<()>();
        self.then(move || drop(waiting));
        drop(written.await);
    }
}

impl Shared {
    fn work(&self) {
        let mut writer = lock(&self.writer);
        while let Some((snapshot, then)) = self.next() {
            if let Some(Err(error)) = snapshot.map(|snapshot| writer.write(&snapshot)) {
                tracing::error!("the state file was not written: {error}; run-time changes will not survive a restart");
            }
            then.into_iter().for_each(|then| then());
        }
    }

    fn next(&self) -> Option<(Option<Snapshot>, Vec<Then>)> {
        let mut queue = lock(&self.queue);
        if queue.latest.is_none() && queue.then.is_empty() {
            queue.running = false;
            return None;
        }
        Some((queue.latest.take(), std::mem::take(&mut queue.then)))
    }
}

/// Nothing is left half done under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns snapshots into text, of which it makes only what changed.
struct Writer {
    file: StateFile,
    configured: Desired,
    configured_text: Option<Box<RawValue>>,
    services: HashMap<ServiceId, (Arc<Service>, Box<RawValue>)>,
}

#[derive(Serialize)]
struct SavedText<'t> {
    configured: &'t RawValue,
    desired: DesiredText<'t>,
    changes: u64,
    vips: &'t [(IpAddr, String)],
    departed: &'t [(ServiceId, Counters)],
    climbing: &'t [SavedClimb],
}

#[derive(Serialize)]
struct DesiredText<'t> {
    services: Vec<&'t RawValue>,
    interfaces: &'t [Interface],
}

impl Writer {
    fn new(file: StateFile, configured: Desired) -> Self {
        Self {
            file,
            configured,
            configured_text: None,
            services: HashMap::new(),
        }
    }

    fn write(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.renew(&snapshot.desired)?;
        let configured = match self.configured_text.take() {
            Some(text) => text,
            None => to_raw_value(&self.configured)?,
        };
        let texts = snapshot.desired.services.iter();
        let saved = SavedText {
            configured: &configured,
            desired: DesiredText {
                services: texts
                    .filter_map(|s| Some(self.services.get(&s.id)?.1.as_ref()))
                    .collect(),
                interfaces: &snapshot.desired.interfaces,
            },
            changes: snapshot.changes,
            vips: &snapshot.vips,
            departed: &snapshot.departed,
            climbing: &snapshot.climbing,
        };
        let result = self.file.save(&saved);
        self.configured_text = Some(configured);
        result
    }

    /// Makes the texts of services that are not those of the last time.
    fn renew(&mut self, desired: &Desired) -> io::Result<()> {
        let mut known = std::mem::take(&mut self.services);
        for service in &desired.services {
            let same = known.remove(&service.id).filter(|(s, _)| Arc::ptr_eq(s, service));
            let text = match same {
                Some((_, text)) => text,
                None => to_raw_value(service)?,
            };
            self.services.insert(service.id, (Arc::clone(service), text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::{
        persist::Saved,
        testing::{backend, service},
    };

    fn desired(weights: &[u16]) -> Desired {
        let service = |(port, weight): (u16, &u16)| {
            let mut service = service(&format!("s{port}"), port, &[backend("web1", 1)]);
            service.backends[0].weight = *weight;
            Arc::new(service)
        };
        Desired {
            services: (1..).zip(weights).map(service).collect(),
            interfaces: Vec::new(),
        }
    }

    fn snapshot(desired: &Desired, changes: u64) -> Snapshot {
        Snapshot {
            desired: desired.clone(),
            changes,
            vips: vec![(IpAddr::from([10, 0, 0, 1]), "eth0".into())],
            ..Snapshot::default()
        }
    }

    fn assert_reads_as(file: &StateFile, configured: &Desired, written: &Snapshot) {
        let Snapshot {
            desired,
            changes,
            vips,
            departed,
            climbing,
        } = written.clone();
        let saved = Saved {
            configured: configured.clone(),
            desired,
            changes,
            vips,
            departed,
            climbing,
        };
        assert_eq!(file.load(), Some(saved));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path(), "default");
        let configured = desired(&[1, 1, 1]);
        let mut writer = Writer::new(file.clone(), configured.clone());
        let mut wanted = configured.clone();
        for change in 1..5u16 {
            let at = usize::from(change) % 3;
            Arc::make_mut(&mut wanted.services[at]).backends[0].weight = change + 1;
            if change == 3 {
                wanted.services.remove(0);
            }
            let snapshot = snapshot(&wanted, change.into());
            writer.write(&snapshot).unwrap();
            assert_reads_as(&file, &configured, &snapshot);
            assert_eq!(
                writer.services.len(),
                wanted.services.len(),
                "texts of services that are gone"
            );
        }
        let texts = |w: &Writer| -> Vec<*const u8> { w.services.values().map(|(_, t)| t.get().as_ptr()).collect() };
        let before = texts(&writer);
        Arc::make_mut(&mut wanted.services[0]).backends[0].weight = 9;
        writer.write(&snapshot(&wanted, 9)).unwrap();
        let kept = texts(&writer).into_iter().filter(|text| before.contains(text)).count();
        assert_eq!(
            kept,
            wanted.services.len() - 1,
            "one service changed, and one text is made"
        );
    }

    #[tokio::test]
    async fn what_waits_for_a_state_comes_after_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path(), "default");
        let configured = desired(&[1]);
        let saver = Saver::new(file.clone(), configured.clone());
        let (told, mut answers) = tokio::sync::mpsc::unbounded_channel();
        for change in 1..=200u16 {
            saver.save(snapshot(&desired(&[change]), change.into()));
            let (told, file) = (told.clone(), file.clone());
            saver.then(move || {
                let on_file = file.load().map(|saved| saved.changes);
                told.send((u64::from(change), on_file)).unwrap();
            });
        }
        saver.flush().await;
        drop(told);
        let mut last = 0;
        while let Some((change, on_file)) = answers.recv().await {
            assert_eq!(change, last + 1);
            assert!(
                on_file >= Some(change),
                "{change} was answered with {on_file:?} on file"
            );
            last = change;
        }
        assert_eq!(last, 200);
        assert_reads_as(&file, &configured, &snapshot(&desired(&[200]), 200));
    }
}
