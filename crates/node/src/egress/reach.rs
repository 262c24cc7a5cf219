//! Reach: whom the rules of one sandbox let it reach now. An address that was answered for an allowed name is *pinned*:
//! it stays reachable, at the ports that the name's rules open. What is forbidden or private is never pinned, so a name
//! that its owner points at the inside of the house opens nothing.

use super::address::{Sort, sort};
use super::rule::Rule;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// Addresses that names have opened; beyond them the one that was answered longest ago is closed again.
const MAX_PINS: usize = 1024;

/// Whom a sandbox may reach.
#[derive(Debug)]
pub(crate) struct Reach {
    rules: Vec<Rule>,
    pins: HashMap<IpAddr, Pin>,
    /// Counts answers, to know the oldest pin.
    turn: u64,
}

/// An address that was answered for names; `rules` are the ones that cover them, so at most as many as there are.
#[derive(Debug, Default)]
struct Pin {
    rules: Vec<usize>,
    turn: u64,
}

/// How far a sandbox may go to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Not at all.
    Refused,
    /// If the peer is not this machine itself.
    Abroad,
    /// Wherever it is: a rule names exactly this address.
    Anywhere,
}

impl Reach {
    /// Makes the reach of these rules.
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        Self { rules, pins: HashMap::new(), turn: 0 }
    }

    /// Returns whether a peer may be reached.
    pub(crate) fn leave(&self, peer: SocketAddr) -> Leave {
        let sort = sort(peer.ip());
        if sort == Sort::Forbidden || peer.port() == 0 {
            return Leave::Refused;
        }
        let opens = |rule: &&Rule| rule.port().is_none_or(|port| port == peer.port());
        let mut by_address = self.rules.iter().filter(opens).filter(|rule| rule.covers_address(peer.ip())).peekable();
        if by_address.peek().is_some() {
            return if by_address.any(|rule| rule.is_for(peer.ip())) { Leave::Anywhere } else { Leave::Abroad };
        }
        let pinned = self.pins.get(&peer.ip()).is_some_and(|pin| {
            sort == Sort::Public
                && pin.rules.iter().filter_map(|number| self.rules.get(*number)).any(|rule| opens(&rule))
        });
        if pinned { Leave::Abroad } else { Leave::Refused }
    }

    /// Whether a rule covers this name.
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.rules.iter().any(|rule| rule.covers_name(name))
    }

    /// Pins those addresses of a covered name that may be, and returns those that are reachable.
    pub(crate) fn admit(&mut self, name: &str, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let covers = |(number, rule): (usize, &Rule)| rule.covers_name(name).then_some(number);
        let rules: Vec<usize> = self.rules.iter().enumerate().filter_map(covers).collect();
        if rules.is_empty() {
            return Vec::new();
        }
        addresses.iter().copied().filter(|address| self.admit_one(*address, &rules)).collect()
    }

    fn admit_one(&mut self, address: IpAddr, rules: &[usize]) -> bool {
        match sort(address) {
            Sort::Forbidden => false,
            // Such an address is open by its own rule or not at all.
            Sort::Private => self.rules.iter().any(|rule| rule.covers_address(address)),
            Sort::Public => {
                self.pin(address, rules);
                true
            }
        }
    }

    fn pin(&mut self, address: IpAddr, rules: &[usize]) {
        if self.pins.len() >= MAX_PINS && !self.pins.contains_key(&address) {
            let oldest = self.pins.iter().min_by_key(|(_, pin)| pin.turn).map(|(address, _)| *address);
            oldest.map(|address| self.pins.remove(&address));
        }
        self.turn += 1;
        let pin = self.pins.entry(address).or_default();
        pin.turn = self.turn;
        for rule in rules {
            if !pin.rules.contains(rule) {
                pin.rules.push(*rule);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(rules: &[&str]) -> Reach {
        Reach::new(rules.iter().map(|rule| Rule::parse(rule).unwrap()).collect())
    }

    fn check(reach: &Reach, peer: &str, expected: Leave) {
        assert_eq!(reach.leave(peer.parse().unwrap()), expected, "{peer}");
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn no_rule_reaches_nobody() {
        let mut reach = reach(&[]);
        assert!(!reach.covers("example.test"));
        assert!(reach.admit("example.test", &addresses(&["8.8.8.8"])).is_empty());
        check(&reach, "8.8.8.8:53", Leave::Refused);
    }

    #[test]
    fn addresses_follow_their_rules() {
        let reach = reach(&["8.8.8.8:53", "10.1.0.0/16:80", "9.9.9.0/24"]);
        check(&reach, "8.8.8.8:53", Leave::Anywhere);
        check(&reach, "8.8.8.8:54", Leave::Refused);
        check(&reach, "10.1.2.3:80", Leave::Abroad);
        check(&reach, "10.2.2.3:80", Leave::Refused);
        check(&reach, "9.9.9.9:1", Leave::Abroad);
        check(&reach, "9.9.9.9:0", Leave::Refused);
        check(&reach, "127.0.0.1:80", Leave::Refused);
    }

    #[test]
    fn names_open_what_they_were_answered_with() {
        let mut reach = reach(&["a.test:80", "*.a.test:443", "a.test:8080", "192.168.7.7:22"]);
        check(&reach, "8.8.8.8:80", Leave::Refused);
        assert!(reach.covers("a.test") && reach.covers("b.a.test") && !reach.covers("b.test"));
        let answered = reach.admit("a.test", &addresses(&["8.8.8.8", "127.0.0.1", "192.168.1.1", "192.168.7.7"]));
        assert_eq!(answered, addresses(&["8.8.8.8", "192.168.7.7"]));
        check(&reach, "8.8.8.8:80", Leave::Abroad);
        check(&reach, "8.8.8.8:8080", Leave::Abroad);
        check(&reach, "8.8.8.8:443", Leave::Refused);
        check(&reach, "192.168.7.7:80", Leave::Refused);
        check(&reach, "192.168.7.7:22", Leave::Anywhere);
        check(&reach, "127.0.0.1:80", Leave::Refused);
        reach.admit("b.a.test", &addresses(&["8.8.8.8"]));
        check(&reach, "8.8.8.8:443", Leave::Abroad);
    }

    #[test]
    fn pins_are_bounded_and_the_oldest_goes() {
        let mut reach = reach(&["*"]);
        let address = |number: u32| IpAddr::from((0x0808_0000 + number).to_be_bytes());
        for number in 0..2 * u32::try_from(MAX_PINS).unwrap() {
            reach.admit("a.test", &[address(number), address(0)]);
        }
        assert_eq!(reach.pins.len(), MAX_PINS);
        assert_eq!(reach.leave((address(0), 80).into()), Leave::Abroad);
        assert_eq!(reach.leave((address(1), 80).into()), Leave::Refused);
    }
}
