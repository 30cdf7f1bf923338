//! A flow's two entries, when one is lost: the table evicts what was not used for long, entry by entry.

use std::net::SocketAddr;

use lb_common::{
    abi::FlowKey,
    net::{self, Addr4, Addr6, Be16},
    reason::{DropReason, PassReason},
};
use lb_userspace::model::Protocol;

use crate::{
    frames::{ACK, Packet, SYN},
    lab::{BACKEND_IF, Case, LONG, Lab, Server, Service, Setup, Table, Verdict},
};

/// What a flow's entries are found by.
pub(crate) struct Ends {
    table: Table,
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
}

impl Ends {
    pub(crate) fn new(table: Table, service: &Service, from: SocketAddr, to: SocketAddr) -> Self {
        let protocol = if service.case.protocol == Protocol::Tcp {
            net::TCP
        } else {
            net::UDP
        };
        Self {
            table,
            from,
            to,
            protocol,
        }
    }

    /// The entry of the client's packets.
    pub(crate) fn request(table: Table, service: &Service, request: &Packet) -> Self {
        Self::new(table, service, request.from, request.to)
    }

    /// The entry of the replies.
    pub(crate) fn reply(table: Table, service: &Service, (server, source): (Server, SocketAddr)) -> Self {
        Self::new(table, service, server.address, source)
    }

    fn v4(&self) -> Option<FlowKey<Addr4>> {
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (self.from, self.to) else {
            return None;
        };
        let end = |at: std::net::SocketAddrV4| (Addr4::from(*at.ip()), Be16::new(at.port()));
        Some(FlowKey::new(end(from), end(to), self.protocol))
    }

    fn v6(&self) -> Option<FlowKey<Addr6>> {
        let (SocketAddr::V6(from), SocketAddr::V6(to)) = (self.from, self.to) else {
            return None;
        };
        let end = |at: std::net::SocketAddrV6| (Addr6::from(*at.ip()), Be16::new(at.port()));
        Some(FlowKey::new(end(from), end(to), self.protocol))
    }

    /// Removes the entry, as an eviction does.
    pub(crate) fn evict(&self, lab: &Lab) {
        match (self.v4(), self.v6()) {
            (Some(key), _) => lab.table_v4(self.table).remove(&key).unwrap(),
            (_, Some(key)) => lab.table_v6(self.table).remove(&key).unwrap(),
            _ => panic!("mixed families"),
        }
    }

    pub(crate) fn exists(&self, lab: &Lab) -> bool {
        match (self.v4(), self.v6()) {
            (Some(key), _) => lab.table_v4(self.table).get(&key, 0).is_ok(),
            (_, Some(key)) => lab.table_v6(self.table).get(&key, 0).is_ok(),
            _ => panic!("mixed families"),
        }
    }

    /// Gives the entry to a client with another port, as if its source port had been given away.
    fn give_away(&self, lab: &Lab) {
        match (self.v4(), self.v6()) {
            (Some(key), _) => {
                let mut flow = lab.table_v4(self.table).get(&key, 0).unwrap();
                flow.rewrite.dst_port = Be16::new(1);
                lab.table_v4(self.table).insert(key, flow, 0).unwrap();
            }
            (_, Some(key)) => {
                let mut flow = lab.table_v6(self.table).get(&key, 0).unwrap();
                flow.rewrite.dst_port = Be16::new(1);
                lab.table_v6(self.table).insert(key, flow, 0).unwrap();
            }
            _ => panic!("mixed families"),
        }
    }
}

/// A flow in one of the two tables. A UDP flow stays in that of the half-open ones for its first datagram only.
fn flow_in(table: Table, lab: &mut Lab, service: &Service, request: &Packet) -> (Server, SocketAddr) {
    let flow = lab.forward(service, request);
    if table == Table::Established {
        lab.establish(service, request, flow);
    }
    flow
}

const TABLES: [Table; 2] = [Table::HalfOpen, Table::Established];

#[test]
fn a_lost_reply_entry_is_restored_by_the_clients_next_step() {
    let mut lab = Lab::new();
    for (case, table) in Case::both_ways()
        .into_iter()
        .flat_map(|case| TABLES.map(|table| (case, table)))
    {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let flow = flow_in(table, &mut lab, &service, &request);
        Ends::reply(table, &service, flow).evict(&lab);
        // A new link is written at once.
        let next = request.clone().with(|p| p.src_mac[5] = 99);
        assert_eq!(lab.forward(&service, &next), flow);
        let now = if case.protocol == Protocol::Udp {
            Table::Established
        } else {
            table
        };
        assert!(Ends::reply(now, &service, flow).exists(&lab), "{case:?}, {table:?}");
        lab.answer(&service, &next, flow, SYN | ACK);
    }
}

#[test]
fn a_lost_entry_is_restored_when_a_refresh_is_due() {
    let mut lab = Lab::new();
    let mut flows = Vec::new();
    for (case, table) in Case::both_ways()
        .into_iter()
        .flat_map(|case| TABLES.map(|table| (case, table)))
    {
        let service = lab.serve(case, &Setup::default());
        let (one, other) = (service.request(4000), service.request(4001));
        let one_flow = flow_in(table, &mut lab, &service, &one);
        let other_flow = flow_in(table, &mut lab, &service, &other);
        Ends::reply(table, &service, one_flow).evict(&lab);
        Ends::request(table, &service, &other).evict(&lab);
        flows.push((service, (one, one_flow), (other, other_flow)));
    }
    lab.pass(LONG / 2);
    for (service, (one, one_flow), (other, other_flow)) in &flows {
        assert_eq!(lab.forward(service, one), *one_flow);
        lab.answer(service, one, *one_flow, SYN | ACK);
        lab.answer(service, other, *other_flow, SYN | ACK);
        assert_eq!(lab.forward(service, other), *other_flow, "restored by the reply");
    }
}

#[test]
fn a_flow_whose_source_port_was_given_away_ends() {
    let mut lab = Lab::new();
    for (case, table) in Case::full_nat()
        .into_iter()
        .flat_map(|case| TABLES.map(|table| (case, table)))
    {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let flow = flow_in(table, &mut lab, &service, &request);
        let reply = Ends::reply(table, &service, flow);
        reply.give_away(&lab);
        let moved = request.clone().with(|p| p.src_mac[5] = 99);
        if case.protocol == Protocol::Tcp {
            lab.refused(&moved.flags(ACK), DropReason::NoFlow);
        } else {
            let again = lab.forward(&service, &moved);
            assert_ne!(again, flow, "{case:?}");
        }
        assert!(reply.exists(&lab), "the new owner keeps it");
        assert_eq!(lab.counters(flow.0).closed, 1, "{case:?}, {table:?}");
    }
}

/// Source ports are unique over both tables, whichever lost its entry.
#[test]
fn a_port_that_was_given_away_in_the_other_table_is_not_taken_back() {
    let mut lab = Lab::new();
    for (case, table) in Case::full_nat()
        .into_iter()
        .flat_map(|case| TABLES.map(|table| (case, table)))
    {
        let setup = Setup {
            backends: 1,
            sources: 1,
            source_ports: 1,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let (old, new) = (service.request(4000), service.request(4001));
        let flow = flow_in(table, &mut lab, &service, &old);
        lab.turned_away(&new, DropReason::SourcePortsExhausted);
        assert_eq!(lab.forward(&service, &old.clone().flags_if_tcp(ACK)), flow, "as it was");
        let now = if case.protocol == Protocol::Udp {
            Table::Established
        } else {
            table
        };
        Ends::reply(now, &service, flow).evict(&lab);
        assert_eq!(lab.forward(&service, &new), flow, "the only port there is");
        // The old flow wants its entry for the replies again.
        let moved = old.clone().with(|p| p.src_mac[5] = 99);
        lab.turned_away(
            &moved.flags_if_tcp(ACK),
            if case.protocol == Protocol::Tcp {
                DropReason::NoFlow
            } else {
                DropReason::SourcePortsExhausted
            },
        );
        lab.answer(&service, &new, flow, SYN | ACK);
        lab.forward(&service, &new.clone().flags_if_tcp(ACK));
        lab.answer(&service, &new, flow, ACK);
    }
}

/// What a reply finds when the client's entry is another flow's: the server's packet is nobody's.
#[test]
fn a_reply_entry_whose_client_has_another_flow_ends() {
    let mut lab = Lab::new();
    for (case, table) in Case::full_nat()
        .into_iter()
        .flat_map(|case| TABLES.map(|table| (case, table)))
    {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let old = flow_in(table, &mut lab, &service, &request);
        // The client's entry is lost, and its next first packet opens another flow.
        Ends::request(table, &service, &request).evict(&lab);
        let new = lab.forward(&service, &request);
        assert_ne!(new, old);
        if case.protocol == Protocol::Udp {
            lab.forward(&service, &request);
        }
        lab.pass(LONG / 2);
        let stale = service.reply(&service.forwarded(&request, old.0, old.1), ACK).bytes();
        let before = lab.passed(PassReason::NotAService);
        let out = lab.run_on(BACKEND_IF, &stale);
        assert_eq!((out.verdict, out.frame), (Verdict::Pass, stale), "{case:?}, {table:?}");
        assert_eq!(lab.passed(PassReason::NotAService), before + 1);
        lab.answer(&service, &request, new, SYN | ACK);
        assert!(!Ends::reply(table, &service, old).exists(&lab));
    }
}
