//! Requests over netlink: one place that sends, waits no longer than it should, and names what was tried.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use tokio::sync::Mutex;

use super::error::NetError;

/// The kernel answers at once; only a lost answer (a full socket buffer) takes as long as this.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The table changed while it was dumped, and entries may be missing (`linux/netlink.h`).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Busy tables are dumped so often before an interrupted dump is taken as it is; events mend the rest.
const DUMP_ATTEMPTS: usize = 3;

/// Sends requests; clones share one socket.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    handle: rtnetlink::Handle,
    /// A socket has room for one dump at a time; the kernel refuses a second one with EBUSY.
    dumping: Arc<Mutex<()>>,
}

/// The messages of an answer, and whether the table changed meanwhile.
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    interrupted: bool,
}

impl Requests {
    pub(super) fn new(handle: rtnetlink::Handle) -> Self {
        Self {
            handle,
            dumping: Arc::default(),
        }
    }

    /// Asks for one thing; `action` completes "the kernel refused to ...".
    pub(super) async fn get(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetError> {
        let answer = self.exchange(action, message, NLM_F_REQUEST).await?;
        Ok(answer.messages.into_iter().next())
    }

    /// Changes one thing, and waits for the kernel's word that it is done.
    pub(super) async fn change(&self, action: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetError> {
        self.exchange(action, message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .await
            .map(drop)
    }

    /// Asks for a whole table.
    pub(super) async fn dump(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let _turn = self.dumping.lock().await;
        let mut answer = self.exchange(action, message.clone(), flags).await?;
        for _ in 1..DUMP_ATTEMPTS {
            if !answer.interrupted {
                break;
            }
            answer = self.exchange(action, message.clone(), flags).await?;
        }
        Ok(answer.messages)
    }

    async fn exchange(&self, action: &str, message: RouteNetlinkMessage, flags: u16) -> Result<Answer, NetError> {
        let collected = self.send_and_collect(action, message, flags);
        tokio::time::timeout(REPLY_TIMEOUT, collected)
            .await
            .map_err(|_elapsed| NetError::NoReply {
                action: action.to_owned(),
                seconds: REPLY_TIMEOUT.as_secs(),
            })?
    }

    async fn send_and_collect(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answer, NetError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut replies = self
            .handle
            .clone()
            .request(request)
            .map_err(|_closed| NetError::Closed)?;
        let mut answer = Answer {
            messages: Vec::new(),
            interrupted: false,
        };
        while let Some(reply) = replies.next().await {
            answer.interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
            if let NetlinkPayload::InnerMessage(message) = reply.payload {
                answer.messages.push(message);
            } else if let NetlinkPayload::Error(error) = reply.payload
                && error.code.is_some()
            {
                return Err(NetError::from_io(action, error.to_io()));
            }
        }
        Ok(answer)
    }
}
