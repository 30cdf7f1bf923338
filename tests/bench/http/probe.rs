//! Whether requests go the way that is to be measured: servers answer in turn, and see the client address that they should.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use lb_tests::Namespace;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often each server is to answer.
const TURNS: usize = 2;

/// The way from client to servers.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// What the client asks.
    pub(super) target: Ipv4Addr,
    /// Who answers in turn.
    pub(super) servers: Vec<Ipv4Addr>,
    /// The client as servers see it.
    pub(super) seen: Ipv4Addr,
}

impl Way {
    /// Asks a few times, and says what is not as it should be.
    pub(super) fn check(&self, client: &Namespace) -> Result<(), String> {
        let requests = self.servers.len() * TURNS;
        let answers: Result<Vec<_>, _> = client.run(|| (0..requests).map(|_| ask(self.target)).collect());
        self.judge(&answers?)
    }

    fn judge(&self, answers: &[String]) -> Result<(), String> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for answer in answers {
            *seen.entry(answer).or_default() += 1;
        }
        let as_it_should: Vec<String> = self.servers.iter().map(|s| format!("{s} {}", self.seen)).collect();
        if as_it_should
            .iter()
            .all(|answer| seen.get(answer.as_str()) == Some(&TURNS))
        {
            return Ok(());
        }
        Err(format!(
            "requests do not go in turn to {:?} from {}: server, client and how often: {seen:?}",
            self.servers, self.seen
        ))
    }
}

/// The last line of the answer: the server's address and the client's.
fn ask(target: Ipv4Addr) -> Result<String, String> {
    let answer =
        exchange(SocketAddr::from((target, 80))).map_err(|error| format!("{target} does not answer: {error}"))?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        return Err(format!("{target} answers {answer:?}"));
    }
    Ok(answer.lines().last().unwrap_or_default().to_owned())
}

fn exchange(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        Way {
            target: Ipv4Addr::new(10, 91, 1, 100),
            servers: vec![Ipv4Addr::new(10, 92, 1, 11), Ipv4Addr::new(10, 92, 1, 12)],
            seen: Ipv4Addr::new(10, 91, 1, 2),
        }
    }

    fn answers(list: &[&str]) -> Vec<String> {
        list.iter().map(|&answer| answer.to_owned()).collect()
    }

    #[test]
    fn every_server_in_turn_is_right() {
        let (a, b) = ("10.92.1.11 10.91.1.2", "10.92.1.12 10.91.1.2");
        way().judge(&answers(&[a, b, a, b])).unwrap();
    }

    #[test]
    fn a_server_left_out_is_seen() {
        let a = "10.92.1.11 10.91.1.2";
        let why = way().judge(&answers(&[a; 4])).unwrap_err();
        assert!(why.contains("\"10.92.1.11 10.91.1.2\": 4"), "{why}");
    }

    #[test]
    fn another_client_address_is_seen() {
        let (a, b) = ("10.92.1.11 10.92.1.1", "10.92.1.12 10.92.1.1");
        way().judge(&answers(&[a, b, a, b])).unwrap_err();
    }
}
