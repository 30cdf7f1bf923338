//! DNS: a question and an answer are a datagram each, and what does not fit into one is asked for again over TCP.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use lb_tests::{
    Lab, Service, Topology,
    client::{self, Shares},
    lab::{Family, Host},
};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, Question, ResourceRecord, TYPE,
    rdata::{RData, TXT},
};

use crate::common::even;

const PORT: u16 = 53;
/// What an answer over UDP may have without an extension (RFC 1035).
const DATAGRAM: usize = 512;
/// So many texts of 200 bytes do not fit into that, nor into a segment.
const MANY: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// A name server that knows texts: `one.test` has its own name, and `many.test` has it and many more.
struct NameServer {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    fn start(host: &Host) -> Self {
        let all = (Ipv6Addr::UNSPECIFIED, PORT);
        let (datagrams, listener) = host
            .ns
            .run(|| (UdpSocket::bind(all).unwrap(), TcpListener::bind(all).unwrap()));
        datagrams.set_read_timeout(Some(PAUSE)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let serve = |turn: Box<dyn Fn(&str) + Send>| {
            let (stopping, name) = (Arc::clone(&stopping), host.name.clone());
            std::thread::spawn(move || {
                while !stopping.load(Ordering::Relaxed) {
                    turn(&name);
                }
            })
        };
        let threads = vec![
            serve(Box::new(move |name| answer_datagram(&datagrams, name))),
            serve(Box::new(move |name| answer_connection(&listener, name))),
        ];
        Self { stopping, threads }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

fn answer_datagram(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; DATAGRAM];
    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let whole = answer(&buffer[..length], name, false);
        let sent = if whole.len() > DATAGRAM {
            answer(&buffer[..length], name, true)
        } else {
            whole
        };
        socket.send_to(&sent, from).unwrap();
    }
}

fn answer_connection(listener: &TcpListener, name: &str) {
    let Ok((mut stream, _)) = listener.accept() else {
        return std::thread::sleep(PAUSE / 10);
    };
    // A health check says nothing.
    if let Some(question) = read_message(&mut stream) {
        write_message(&mut stream, &answer(&question, name, false));
    }
}

fn answer(question: &[u8], name: &str, truncated: bool) -> Vec<u8> {
    let mut packet = Packet::parse(question).unwrap().into_reply();
    let asked = packet.questions[0].qname.clone();
    let padding = "x".repeat(200);
    let more = if asked.to_string() == "many.test" { MANY } else { 0 };
    if truncated {
        packet.set_flags(PacketFlag::TRUNCATION);
    } else {
        for text in [name].into_iter().chain(std::iter::repeat_n(&*padding, more)) {
            let text = TXT::new().with_string(text).unwrap();
            let record = ResourceRecord::new(asked.clone(), CLASS::IN, 1, RData::TXT(text));
            packet.answers.push(record);
        }
    }
    packet.build_bytes_vec().unwrap()
}

/// A message with its length before it (RFC 1035, 4.2.2); none when the other end says nothing.
fn read_message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(lb_tests::patience(10 * PAUSE))).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, message].concat()).unwrap();
}

fn question(id: u16, name: &'static str) -> Vec<u8> {
    let mut packet = Packet::new_query(id);
    let name = Name::new_unchecked(name);
    packet
        .questions
        .push(Question::new(name, TYPE::TXT.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

/// The texts of an answer to `id`; none when it was cut.
fn texts(id: u16, message: &[u8]) -> Option<Vec<String>> {
    let packet = Packet::parse(message).unwrap();
    assert_eq!(packet.id(), id, "the answer to another question");
    let text = |record: &ResourceRecord<'_>| match &record.rdata {
        RData::TXT(text) => String::try_from(text.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    (!packet.has_flags(PacketFlag::TRUNCATION)).then(|| packet.answers.iter().map(text).collect())
}

/// Asks as a resolver does.
fn ask(socket: &UdpSocket, server: SocketAddr, id: u16, name: &'static str) -> Vec<String> {
    let question = question(id, name);
    socket.send(&question).unwrap();
    let mut buffer = [0; DATAGRAM];
    let length = socket.recv(&mut buffer).unwrap();
    texts(id, &buffer[..length]).unwrap_or_else(|| {
        let mut stream = client::open(server).unwrap();
        write_message(&mut stream, &question);
        texts(id, &read_message(&mut stream).expect("an answer")).expect("the whole answer")
    })
}

#[test]
fn questions_are_shared_one_by_one_and_large_answers_come_over_tcp() {
    let lab = Lab::new(Topology::TwoArm, 2);
    let _servers: Vec<_> = lab.servers.iter().map(NameServer::start).collect();
    for family in Family::ALL {
        let vip = lab.vip(family, PORT);
        let backends = || lab.backends(family, PORT);
        let udp = Service::new("dns", vip, "udp")
            .health("type = \"none\"")
            .backends(backends());
        let tcp = Service::new("dns-tcp", vip, "tcp").backends(backends());
        let lb = lab.start(&lab.config().service(udp.set("one-packet = true")).service(tcp));
        lab.client.ns.run(|| {
            // A resolver has one port for many questions.
            let socket = UdpSocket::bind(if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.connect(vip).unwrap();
            socket.set_read_timeout(Some(lb_tests::patience(20 * PAUSE))).unwrap();
            let mut shares = Shares::new();
            for id in 0..20 {
                let texts = ask(&socket, vip, id, "one.test");
                assert_eq!(texts.len(), 1);
                *shares.entry(texts[0].clone()).or_default() += 1;
            }
            assert_eq!(shares, even(&lab, 10), "{family:?}");
            let texts = ask(&socket, vip, 99, "many.test");
            assert_eq!(texts.len(), 1 + MANY);
            assert!(texts[1..].iter().all(|text| text.len() == 200), "{texts:?}");
        });
        lb.detach();
    }
}
