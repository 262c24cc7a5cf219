//! Messages of DNS: one question read, its answer written. Only what a stub resolver asks; nothing is ever looked up here.
//!
//! The name in a question is echoed as it was asked, letter case and all, and never follows a compression pointer.

use super::rule::MAX_NAME_CHARS;
use std::net::IpAddr;

/// Addresses in one answer.
const MAX_ANSWERS: usize = 32;
/// Bytes of one answer by UDP, whatever the asker would take.
const MAX_UDP_BYTES: usize = 1232;
/// Bytes of one answer by UDP if the asker says nothing.
const MIN_UDP_BYTES: usize = 512;
/// Bytes of an answer over a stream.
pub(crate) const MAX_STREAM_BYTES: usize = u16::MAX as usize;
/// For how long an answer may be remembered; the system's resolver does not tell us the true time.
const TTL_S: u32 = 30;

const HEADER_BYTES: usize = 12;
const KIND_A: u16 = 1;
const KIND_AAAA: u16 = 28;
const KIND_OPT: u16 = 41;
const CLASS_IN: u16 = 1;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was answered, maybe with nothing.
    Answered = 0,
    /// It cannot be understood.
    Malformed = 1,
    /// It could not be answered now.
    Failed = 2,
    /// There is no such name, or the rules do not cover it.
    Unknown = 3,
    /// Nobody answers such questions here.
    Unsupported = 4,
    /// The name leads only where the sandbox may not go.
    Refused = 5,
}

/// The transport that brought a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// A question.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    /// The name in lower case, without its last dot.
    pub(crate) name: String,
    id: [u8; 2],
    flags: u8,
    kind: u16,
    raw: &'a [u8],
    room_bytes: usize,
}

/// Which addresses a question wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Those of IPv4.
    V4,
    /// Those of IPv6.
    V6,
    /// None at all: it asks for something else, of which we say that there is nothing.
    Neither,
}

impl<'a> Question<'a> {
    /// Reads a question; an error is the answer to it, if it deserves one.
    pub(crate) fn parse(message: &'a [u8], transport: Transport) -> Result<Self, Option<Vec<u8>>> {
        let (Some(header), Some(rest)) = (message.first_chunk::<HEADER_BYTES>(), message.get(HEADER_BYTES..)) else {
            return Err(None);
        };
        let is_answer = header[2] & 0x80 != 0;
        if is_answer {
            return Err(None);
        }
        let bare = |outcome| Err(Some(head(&header[..2], header[2], outcome, [0, 0])));
        let operation = header[2] & 0x78;
        if operation != 0 {
            return bare(Outcome::Unsupported);
        }
        let questions = u16::from_be_bytes([header[4], header[5]]);
        let Some((name, raw_bytes)) = name(rest).filter(|_| questions == 1) else { return bare(Outcome::Malformed) };
        let (Some(raw), Some(tail)) = (rest.get(..raw_bytes + 4), rest.get(raw_bytes + 4..)) else {
            return bare(Outcome::Malformed);
        };
        let number = |at: usize| u16::from_be_bytes([raw[at], raw[at + 1]]);
        if number(raw_bytes + 2) != CLASS_IN {
            return bare(Outcome::Unsupported);
        }
        let room_bytes = if transport == Transport::Udp { room(tail) } else { MAX_STREAM_BYTES };
        Ok(Self { name, id: [header[0], header[1]], flags: header[2], kind: number(raw_bytes), raw, room_bytes })
    }

    /// Returns which addresses it wants.
    pub(crate) fn family(&self) -> Family {
        match self.kind {
            KIND_A => Family::V4,
            KIND_AAAA => Family::V6,
            _ => Family::Neither,
        }
    }

    /// Writes the answer. Addresses of the other family are left out; those that find no room are, with a mark.
    pub(crate) fn answer(&self, outcome: Outcome, addresses: &[IpAddr]) -> Vec<u8> {
        let family = self.family();
        let is_wanted = |address: &&IpAddr| match family {
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
            Family::Neither => false,
        };
        let wanted: Vec<&IpAddr> = addresses.iter().filter(is_wanted).take(MAX_ANSWERS).collect();
        let record_bytes = if family == Family::V6 { 28 } else { 16 };
        let room = self.room_bytes.saturating_sub(HEADER_BYTES + self.raw.len()) / record_bytes;
        let count = u8::try_from(wanted.len().min(room)).expect("at most 32 answers");
        let mut message = head(&self.id, self.flags, outcome, [1, count]);
        let is_cut = room < wanted.len();
        message[2] |= if is_cut { 0x02 } else { 0 };
        message.extend_from_slice(self.raw);
        for address in wanted.into_iter().take(count.into()) {
            // The name is the one in the question, twelve bytes from the beginning.
            message.extend_from_slice(&[0xc0, 12]);
            message.extend_from_slice(&self.kind.to_be_bytes());
            message.extend_from_slice(&CLASS_IN.to_be_bytes());
            message.extend_from_slice(&TTL_S.to_be_bytes());
            match address {
                IpAddr::V4(address) => push_bytes(&mut message, &address.octets()),
                IpAddr::V6(address) => push_bytes(&mut message, &address.octets()),
            }
        }
        message
    }
}

/// Writes a header: an answer, with recursion if it was desired, and so many questions and answers.
fn head(id: &[u8], flags: u8, outcome: Outcome, [questions, answers]: [u8; 2]) -> Vec<u8> {
    let mut message = Vec::with_capacity(MIN_UDP_BYTES);
    message.extend_from_slice(id);
    let asked = flags & 0x79;
    message.extend_from_slice(&[0x80 | asked, 0x80 | outcome as u8, 0, questions, 0, answers, 0, 0, 0, 0]);
    message
}

fn push_bytes(message: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("an address has at most 16 bytes");
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(bytes);
}

/// Reads an uncompressed name and tells how many bytes it took.
fn name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        // Longer ones are pointers, which a question needs not.
        let label = bytes.get(at..at + length).filter(|_| length < 64)?;
        if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        at += length;
        if name.len() > MAX_NAME_CHARS {
            return None;
        }
    }
}

/// Returns how long an answer may be: what an EDNS record right after the question says, within bounds.
fn room(tail: &[u8]) -> usize {
    let [0, kind_high, kind_low, size_high, size_low, ..] = *tail else { return MIN_UDP_BYTES };
    let is_edns = u16::from_be_bytes([kind_high, kind_low]) == KIND_OPT;
    let size = usize::from(u16::from_be_bytes([size_high, size_low]));
    if is_edns { size.clamp(MIN_UDP_BYTES, MAX_UDP_BYTES) } else { MIN_UDP_BYTES }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16, tail: &[u8]) -> Vec<u8> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!tail.is_empty())];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend_from_slice(label.as_bytes());
        }
        message.push(0);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(tail);
        message
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let message = query("Example.TEST", KIND_A, &[]);
        let question = Question::parse(&message, Transport::Udp).unwrap();
        assert_eq!((question.name.as_str(), question.family()), ("example.test", Family::V4));
        let addresses = ["1.2.3.4".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let answer = question.answer(Outcome::Answered, &addresses);
        assert_eq!(answer[..12], [7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[12..message.len()], message[12..]);
        assert_eq!(answer[message.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 1, 2, 3, 4]);
        let unknown = question.answer(Outcome::Unknown, &[]);
        assert_eq!((unknown[3] & 15, unknown[7]), (3, 0));
    }

    #[test]
    fn an_answer_fits_or_says_that_it_was_cut() {
        let addresses: Vec<IpAddr> = (0..60).map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])).collect();
        let check = |tail: &[u8], transport, count: u8, is_cut: bool| {
            let message = query("example.test", KIND_AAAA, tail);
            let answer = Question::parse(&message, transport).unwrap().answer(Outcome::Answered, &addresses);
            assert_eq!((answer[7], answer[2] & 2 != 0), (count, is_cut), "{tail:?}");
            assert!(transport == Transport::Tcp || answer.len() <= MAX_UDP_BYTES);
        };
        check(&[], Transport::Udp, 17, true);
        check(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0], Transport::Udp, 32, false);
        check(&[0, 0, 41, 0, 1, 0, 0, 0, 0, 0, 0], Transport::Udp, 17, true);
        check(&[], Transport::Tcp, 32, false);
    }

    #[test]
    fn nonsense_gets_what_it_deserves() {
        let outcome =
            |message: &[u8]| Question::parse(message, Transport::Udp).err().map(|answer| answer.map(|a| a[3] & 15));
        let good = query("a.test", 1, &[]);
        assert_eq!(outcome(&good), None);
        assert_eq!(outcome(&good[..11]), Some(None));
        for length in 12..good.len() {
            assert_eq!(outcome(&good[..length]), Some(Some(1)), "{length}");
        }
        let with = |at: usize, byte: u8| {
            let mut message = good.clone();
            message[at] = byte;
            outcome(&message)
        };
        assert_eq!(with(2, 0x81), Some(None));
        assert_eq!(with(2, 0x28), Some(Some(4)));
        assert_eq!(with(5, 2), Some(Some(1)));
        assert_eq!(with(12, 0xc0), Some(Some(1)));
        assert_eq!(with(13, 0), Some(Some(1)));
        assert_eq!(with(good.len() - 1, 3), Some(Some(4)));
        let long = query(&vec!["a".repeat(63); 5].join("."), 1, &[]);
        assert_eq!(outcome(&long), Some(Some(1)));
        let other = query("a.test", 65, &[]);
        assert_eq!(Question::parse(&other, Transport::Udp).unwrap().family(), Family::Neither);
    }
}
