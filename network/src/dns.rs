//! Messages of the domain name system, as far as a server of container names needs them.
//!
//! Everything here is read from somebody who may lie: a container's query, an upstream's answer. Nothing is allocated by
//! what a message claims, no pointer in a name is followed, and what is not understood is passed on as bytes or refused.
//!
//! Source: RFC 1035 §4 (messages), RFC 6891 (payload size), RFC 2308 (answers without data).

use std::net::Ipv4Addr;

/// Longest message without an agreed size, over UDP.
const PLAIN_UDP_LIMIT: usize = 512;
/// Longest message sent over UDP whatever a client says: what fits an Ethernet packet.
const UDP_LIMIT: usize = 1232;
/// Bytes before the question.
const HEAD: usize = 12;
/// Longest name, length bytes included.
const MAX_NAME: usize = 255;
/// Longest label.
const MAX_LABEL: usize = 63;
/// Name of the question, as a pointer.
const QUESTION_NAME: [u8; 2] = [0xc0, 12];
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;

/// Seconds an answer of ours may be kept: containers come and go.
pub const TTL_SECONDS: u32 = 5;

/// Types of records that a server of names looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// A name for an address.
    Ptr,
    /// Anything else, by number.
    Other(u16),
}

/// Why a question has no answer with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The name exists, but not with this type.
    NoData,
    /// The message makes no sense.
    Malformed,
    /// Nobody could be asked.
    Failed,
    /// There is no such name.
    NoSuchName,
    /// Not what this server does.
    NotImplemented,
    /// Not for this client.
    Refused,
}

impl Outcome {
    /// Its number in a message. Source: RFC 1035 §4.1.1, RCODE.
    fn code(self) -> u8 {
        match self {
            Self::NoData => 0,
            Self::Malformed => 1,
            Self::Failed => 2,
            Self::NoSuchName => 3,
            Self::NotImplemented => 4,
            Self::Refused => 5,
        }
    }
}

/// A question that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    bytes: Vec<u8>,
    question_end: usize,
    name: Option<String>,
    kind: Kind,
    udp_limit: usize,
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// The answer to send: `None` for what deserves none (an answer, less than a head), else bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let Some(head) = bytes.get(..HEAD) else {
            return Err(None);
        };
        if head[2] & 0x80 != 0 {
            return Err(None);
        }
        if head[2] & 0x78 != 0 {
            return Err(Some(bare(head, Outcome::NotImplemented)));
        }
        let malformed = || Some(bare(head, Outcome::Malformed));
        if number(head, 4) != Some(1) {
            return Err(malformed());
        }
        let (name, name_end) = read_name(bytes, HEAD).ok_or_else(malformed)?;
        let (kind, class) = number(bytes, name_end)
            .zip(number(bytes, name_end + 2))
            .ok_or_else(malformed)?;
        let question_end = name_end + 4;
        let kind = match (kind, class) {
            (1, CLASS_IN) => Kind::A,
            (12, CLASS_IN) => Kind::Ptr,
            (other, _) => Kind::Other(other),
        };
        Ok(Self {
            udp_limit: udp_limit(bytes, question_end),
            name: name.filter(|_| class == CLASS_IN),
            bytes: bytes.to_vec(),
            question_end,
            kind,
        })
    }

    /// The name asked for, lower case, without the last dot; none for names that no host has.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What is asked about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address a reverse question is about: `4.3.2.1.in-addr.arpa`.
    #[must_use]
    pub fn reverse_address(&self) -> Option<Ipv4Addr> {
        let digits = self.name()?.strip_suffix(".in-addr.arpa")?;
        let address: Ipv4Addr = digits.parse().ok()?;
        let [a, b, c, d] = address.octets();
        Some(Ipv4Addr::new(d, c, b, a))
    }

    /// The query as it came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same query with another number, to ask somebody else.
    #[must_use]
    pub fn with_id(&self, id: u16) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        set_id(&mut bytes, id);
        bytes
    }

    /// Answers with addresses.
    #[must_use]
    pub fn addresses(&self, addresses: &[Ipv4Addr]) -> Vec<u8> {
        let data = addresses.iter().map(|address| address.octets().to_vec());
        self.records(1, data)
    }

    /// Answers with a name; without data when no message can carry it.
    #[must_use]
    pub fn pointer(&self, name: &str) -> Vec<u8> {
        let mut data = Vec::with_capacity(name.len() + 2);
        for label in name.split('.') {
            match u8::try_from(label.len()) {
                Ok(length @ 1..=63) => data.push(length),
                _ => return self.without_data(Outcome::NoData),
            }
            data.extend_from_slice(label.as_bytes());
        }
        data.push(0);
        if data.len() > MAX_NAME {
            return self.without_data(Outcome::NoData);
        }
        self.records(12, std::iter::once(data))
    }

    /// Answers without data.
    #[must_use]
    pub fn without_data(&self, outcome: Outcome) -> Vec<u8> {
        self.head(outcome.code(), 0)
    }

    /// Whether `answer` is one to this query sent with the number `id`: nobody else's, to nothing else.
    #[must_use]
    pub fn is_answered_by(&self, answer: &[u8], id: u16) -> bool {
        let Some(head) = answer.get(..HEAD) else {
            return false;
        };
        let question = self.bytes.get(HEAD..self.question_end);
        let asked = answer.get(HEAD..self.question_end);
        let is_same = match (question, asked) {
            (Some(question), Some(asked)) => question.eq_ignore_ascii_case(asked),
            _ => false,
        };
        number(head, 0) == Some(id)
            && head[2] & 0x80 != 0
            && (is_same || (number(head, 4) == Some(0) && head[3] & 0x0f != 0))
    }

    /// An upstream's answer with this query's own number.
    #[must_use]
    pub fn passed_on(&self, mut answer: Vec<u8>) -> Vec<u8> {
        set_id(&mut answer, number(&self.bytes, 0).unwrap_or(0));
        answer
    }

    /// The answer as it goes over UDP: one that is too long is cut, and says so, and the client asks again by TCP.
    #[must_use]
    pub fn for_udp(&self, answer: Vec<u8>) -> Vec<u8> {
        if answer.len() <= self.udp_limit {
            return answer;
        }
        let code = answer.get(3).map_or(0, |byte| byte & 0x0f);
        let mut cut = self.head(code, 0);
        cut[2] |= 0x02;
        cut
    }

    fn records(&self, kind: u16, data: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
        let mut answer = self.head(0, 0);
        let mut count: u16 = 0;
        for data in data.take(usize::from(u8::MAX)) {
            let Ok(length) = u16::try_from(data.len()) else {
                continue;
            };
            answer.extend_from_slice(&QUESTION_NAME);
            answer.extend_from_slice(&kind.to_be_bytes());
            answer.extend_from_slice(&CLASS_IN.to_be_bytes());
            answer.extend_from_slice(&TTL_SECONDS.to_be_bytes());
            answer.extend_from_slice(&length.to_be_bytes());
            answer.extend_from_slice(&data);
            count += 1;
        }
        answer[6..8].copy_from_slice(&count.to_be_bytes());
        answer
    }

    /// Head and question of an answer.
    fn head(&self, code: u8, answers: u16) -> Vec<u8> {
        let mut answer = self
            .bytes
            .get(..self.question_end)
            .unwrap_or_default()
            .to_vec();
        answer.resize(answer.len().max(HEAD), 0);
        answered(&mut answer, code);
        answer[4..6].copy_from_slice(&1_u16.to_be_bytes());
        answer[6..8].copy_from_slice(&answers.to_be_bytes());
        answer[8..12].fill(0);
        answer
    }
}

/// What an upstream says of a question, as far as asking another one depends on it.
///
/// * `answer`: one that [`Query::is_answered_by`] accepts.
#[must_use]
pub fn is_failure(answer: &[u8]) -> bool {
    let code = answer.get(3).map_or(2, |byte| byte & 0x0f);
    // Server failure, not implemented, refused, and what is newer; "no such name" is an answer.
    !matches!(code, 0 | 3)
}

/// Whether an answer was cut and is to be asked for by TCP.
#[must_use]
pub fn is_truncated(answer: &[u8]) -> bool {
    answer.get(2).is_some_and(|byte| byte & 0x02 != 0)
}

/// A head alone.
fn bare(head: &[u8], outcome: Outcome) -> Vec<u8> {
    let mut answer = head.to_vec();
    answered(&mut answer, outcome.code());
    answer[4..12].fill(0);
    answer
}

/// Marks a copied head as an answer: of the flags, operation and "recursion desired" stay.
fn answered(head: &mut [u8], code: u8) {
    if let Some(flags) = head.get_mut(2..4) {
        flags[0] = 0x80 | (flags[0] & 0x79);
        flags[1] = 0x80 | code;
    }
}

fn set_id(bytes: &mut [u8], id: u16) {
    if let Some(slot) = bytes.get_mut(..2) {
        slot.copy_from_slice(&id.to_be_bytes());
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Reads a name without pointers, which a question has none of; answers where it ends. The text is none when a label has
/// bytes that no host name has.
fn read_name(bytes: &[u8], start: usize) -> Option<(Option<String>, usize)> {
    let mut text = Some(String::new());
    let mut at = start;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > MAX_LABEL || at + length - start > MAX_NAME {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        at += length;
        let is_plain = label
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        text = match text {
            Some(mut text) if is_plain => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.extend(
                    label
                        .iter()
                        .map(|byte| char::from(byte.to_ascii_lowercase())),
                );
                Some(text)
            }
            _ => None,
        };
    }
    (at - start <= MAX_NAME).then_some((text, at))
}

/// What the client takes over UDP: said by an OPT record right after the question.
fn udp_limit(bytes: &[u8], question_end: usize) -> usize {
    let has_opt = number(bytes, 6) == Some(0)
        && number(bytes, 8) == Some(0)
        && bytes.get(question_end) == Some(&0)
        && number(bytes, question_end + 1) == Some(TYPE_OPT);
    match number(bytes, question_end + 3) {
        Some(size) if has_opt => usize::from(size).clamp(PLAIN_UDP_LIMIT, UDP_LIMIT),
        _ => PLAIN_UDP_LIMIT,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query as Question, ResponseCode};
    use hickory_proto::rr::{Name, RData, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn asked(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new();
        message
            .set_id(7)
            .set_message_type(MessageType::Query)
            .set_op_code(OpCode::Query)
            .set_recursion_desired(true)
            .add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn understood(answer: &[u8]) -> Message {
        Message::from_vec(answer).unwrap()
    }

    #[test]
    fn another_implementation_understands_the_answers() {
        let query = Query::parse(&asked("Web.Net.", RecordType::A)).unwrap();
        assert_eq!((query.name(), query.kind()), (Some("web.net"), Kind::A));
        let addresses = [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 2, 4)];
        let answer = understood(&query.addresses(&addresses));
        assert_eq!(
            (answer.id(), answer.response_code()),
            (7, ResponseCode::NoError)
        );
        assert!(answer.recursion_available() && answer.recursion_desired());
        let found: Vec<_> = answer
            .answers()
            .iter()
            .map(|record| (record.name().to_string(), record.data().clone()))
            .collect();
        let expected = addresses.map(|address| ("Web.Net.".to_owned(), RData::A(address.into())));
        assert_eq!(found, expected);

        let nothing = understood(&query.without_data(Outcome::NoSuchName));
        assert_eq!(nothing.response_code(), ResponseCode::NXDomain);
        assert_eq!(nothing.queries().len(), 1);
    }

    #[test]
    fn reverse_questions_name_an_address() {
        let query = Query::parse(&asked("4.3.2.1.in-addr.arpa.", RecordType::PTR)).unwrap();
        assert_eq!(query.kind(), Kind::Ptr);
        assert_eq!(query.reverse_address(), Some(Ipv4Addr::new(1, 2, 3, 4)));
        let answer = understood(&query.pointer("web.net"));
        let RData::PTR(name) = answer.answers()[0].data() else {
            panic!("{answer}");
        };
        assert_eq!(name.0.to_string(), "web.net.");
        let long = "a".repeat(64);
        assert!(understood(&query.pointer(&long)).answers().is_empty());
        for other in ["3.2.1.in-addr.arpa.", "x.in-addr.arpa.", "web."] {
            let query = Query::parse(&asked(other, RecordType::PTR)).unwrap();
            assert_eq!(query.reverse_address(), None, "{other}");
        }
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let query = Query::parse(&asked("web.", RecordType::A)).unwrap();
        let other = Query::parse(&asked("wob.", RecordType::A)).unwrap();
        let answer = query.with_id(9);
        assert!(!query.is_answered_by(&answer, 9), "a query is no answer");
        let sent = Query::parse(&query.with_id(9)).unwrap();
        let answer = sent.addresses(&[Ipv4Addr::LOCALHOST]);
        assert!(query.is_answered_by(&answer, 9));
        assert!(!query.is_answered_by(&answer, 8));
        assert!(!other.is_answered_by(&answer, 9));
        assert_eq!(query.passed_on(answer)[..2], [0, 7]);
    }

    #[test]
    fn long_answers_are_cut_for_udp() {
        let plain = asked("web.", RecordType::A);
        let query = Query::parse(&plain).unwrap();
        let long = query.addresses(&[Ipv4Addr::LOCALHOST; 60]);
        assert!(long.len() > 512 && !is_truncated(&long));
        let cut = query.for_udp(long.clone());
        assert!(is_truncated(&cut) && cut.len() <= 512);
        assert!(understood(&cut).truncated());
        // With an agreed size it fits.
        let mut with_opt = plain;
        with_opt[11] = 1;
        with_opt.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Query::parse(&with_opt).unwrap().for_udp(long.clone()), long);
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let good = asked("web.", RecordType::A);
        let code = |bytes: &[u8]| {
            let answer = Query::parse(bytes).unwrap_err();
            answer.map(|answer| understood(&answer).response_code())
        };
        assert_eq!(code(&[]), None);
        assert_eq!(code(&good[..11]), None);
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert_eq!(code(&answer), None);
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(code(&update), Some(ResponseCode::NotImp));
        let mut none = good.clone();
        none[5] = 0;
        assert_eq!(code(&none), Some(ResponseCode::FormErr));
        assert_eq!(code(&good[..good.len() - 1]), Some(ResponseCode::FormErr));
        let mut pointer = good.clone();
        pointer[12..14].copy_from_slice(&QUESTION_NAME);
        assert_eq!(code(&pointer), Some(ResponseCode::FormErr));
        let mut endless = good[..12].to_vec();
        endless.extend(std::iter::repeat_n([1, b'a'], 200).flatten());
        endless.extend_from_slice(&[0, 0, 1, 0, 1]);
        assert_eq!(code(&endless), Some(ResponseCode::FormErr));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..600), answer in prop::collection::vec(any::<u8>(), 0..600)) {
            exercise(&bytes, &answer);
        }

        #[test]
        fn no_damage_to_a_query_makes_it_fail(
            at in prop::collection::vec((0usize..40, any::<u8>()), 0..6),
            answer in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut bytes = asked("some.name.", RecordType::A);
            for (at, value) in at {
                let length = bytes.len();
                bytes[at % length] = value;
            }
            exercise(&bytes, &answer);
        }
    }

    fn exercise(bytes: &[u8], answer: &[u8]) {
        let Ok(query) = Query::parse(bytes) else {
            return;
        };
        let _ = query.reverse_address();
        for own in [
            query.addresses(&[Ipv4Addr::LOCALHOST]),
            query.pointer("a.b"),
            query.without_data(Outcome::Failed),
        ] {
            assert!(query.is_answered_by(&own, u16::from_be_bytes([bytes[0], bytes[1]])));
            assert!(query.for_udp(own).len() <= UDP_LIMIT);
        }
        let _ = query.is_answered_by(answer, 0);
        let _ = (is_failure(answer), is_truncated(answer));
        let _ = query.for_udp(query.passed_on(answer.to_vec()));
    }
}
