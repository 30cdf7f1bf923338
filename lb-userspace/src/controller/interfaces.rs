//! Interfaces that carry the packet path.

use super::{
    Controller, ControllerError,
    ports::{Health, Network},
};
use crate::{
    datapath::{Attachment, Datapath, DatapathError},
    model::{Interface, ServiceId},
};

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Attaches to every wanted interface. A running packet path goes on without one that is missing.
    pub(super) fn attach_all(&mut self) -> Result<(), ControllerError> {
        for interface in self.desired.interfaces.clone() {
            match self.attach(&interface) {
                Ok(()) => {}
                Err(error) if self.adopted => {
                    tracing::error!("{error}");
                    self.attachments.insert(interface.name, Err(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn attach(&mut self, interface: &Interface) -> Result<(), DatapathError> {
        let attachment = self.datapath.attach(&interface.name, interface.xdp)?;
        let path = if attachment.native { "native" } else { "generic" };
        tracing::info!("attached to {} ({path} XDP)", interface.name);
        if let Some(note) = &attachment.note {
            tracing::warn!(
                "{} runs XDP in the generic path, which is slower: {note}",
                interface.name
            );
        }
        self.attachments.insert(interface.name.clone(), Ok(attachment));
        self.note_attachments();
        Ok(())
    }

    pub(super) fn detach(&mut self, name: &str) -> Result<(), DatapathError> {
        self.datapath.detach(name)?;
        self.attachments.remove(name);
        self.note_attachments();
        tracing::info!("detached from {name}");
        Ok(())
    }

    /// Detaches from interfaces that are gone, attaches to those that came back.
    pub(super) fn check_interfaces(&mut self) {
        let existing = self.existing_interfaces();
        for interface in self.desired.interfaces.clone() {
            let index = existing.get(&interface.name).copied();
            let attached = self.attachments.get(&interface.name).and_then(|a| a.as_ref().ok());
            match (index, attached.map(|a| a.ifindex)) {
                (Some(index), Some(attached)) if index == attached => {}
                (None, None) => {}
                (Some(_), None) => self.reattach(&interface),
                (index, Some(_)) => {
                    self.lose(&interface.name);
                    if index.is_some() {
                        self.reattach(&interface);
                    }
                }
            }
        }
    }

    fn lose(&mut self, name: &str) {
        tracing::warn!("interface {name} is missing");
        if let Err(error) = self.datapath.detach(name) {
            tracing::warn!("{name}: {error}");
        }
        self.attachments.insert(name.to_owned(), Err("missing".to_owned()));
        self.note_attachments();
        self.lose_vips_on(name);
    }

    /// Backends take flows only through interfaces that carry the packet path. Before the first publication, at the start,
    /// there is nothing to publish anew.
    fn note_attachments(&mut self) {
        let attached = self.attachments.values().flatten().map(|a| a.ifindex).collect();
        self.world.attached = Some(attached);
        if !self.outlooks.is_empty() {
            let ids: Vec<ServiceId> = self.desired.services.iter().map(|s| s.id).collect();
            self.publish_or_retry(&ids);
        }
    }

    fn reattach(&mut self, interface: &Interface) {
        match self.attach(interface) {
            Ok(()) => self.retry_vips(),
            Err(error) => {
                let error = error.to_string();
                let known = self.attachments.insert(interface.name.clone(), Err(error.clone()));
                if known != Some(Err(error.clone())) {
                    tracing::error!("{}: not attached: {error}", interface.name);
                }
            }
        }
    }

    /// How an interface is attached, if it is.
    pub(super) fn attachment(&self, name: &str) -> Option<&Attachment> {
        self.attachments.get(name)?.as_ref().ok()
    }
}
