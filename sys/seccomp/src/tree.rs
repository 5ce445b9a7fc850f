//! Instructions, and a search tree over ranges of numbers.

/// One classic BPF instruction: `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    /// Instructions skipped when a jump's condition holds.
    pub(crate) when_true: u8,
    /// Instructions skipped when it doesn't.
    pub(crate) when_false: u8,
    pub(crate) constant: u32,
}

pub(crate) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(crate) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(crate) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(crate) const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(crate) const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
pub(crate) const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(crate) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

impl Instruction {
    /// An instruction without jumps.
    pub(crate) fn plain(code: u16, constant: u32) -> Self {
        Self {
            code,
            when_true: 0,
            when_false: 0,
            constant,
        }
    }

    /// The kernel's eight bytes, in this machine's byte order.
    pub(crate) fn bytes(self) -> [u8; 8] {
        let [a, b] = self.code.to_ne_bytes();
        let [e, f, g, h] = self.constant.to_ne_bytes();
        [a, b, self.when_true, self.when_false, e, f, g, h]
    }
}

/// What happens to a range of system call numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    /// First number; the range ends before the next one's.
    pub(crate) start: u32,
    /// What then.
    pub(crate) body: Body,
}

/// The end of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Returns this value.
    Return(u32),
    /// Instructions that return on every path.
    Code(Vec<Instruction>),
}

/// A place in a program being assembled, counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(usize);

/// Puts a program together from its end to its start, because jumps only go forward: every target
/// is known when its jump is written, and a return that is near enough serves several jumps.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    reversed: Vec<Instruction>,
    returns: Vec<(u32, Place)>,
}

/// A return farther away than this is written again. Jumps reach 255; the rest is room for what
/// comes between.
const NEAR: usize = 200;

impl Assembler {
    /// Writes one instruction before everything written so far.
    pub(crate) fn push(&mut self, instruction: Instruction) -> Place {
        self.reversed.push(instruction);
        Place(self.reversed.len() - 1)
    }

    /// A place that returns `value`, written now unless there is one near.
    pub(crate) fn returns(&mut self, value: u32) -> Place {
        let known = self.returns.iter().find(|(known, _)| *known == value);
        if let Some((_, place)) = known
            && self.distance(*place) < NEAR
        {
            return *place;
        }
        self.returns.retain(|(known, _)| *known != value);
        let place = self.push(Instruction::plain(RETURN, value));
        self.returns.push((value, place));
        place
    }

    /// A conditional jump on `constant`, before everything written so far.
    pub(crate) fn branch(&mut self, code: u16, constant: u32, yes: Place, no: Place) -> Place {
        let no = self.reachable(no, 1);
        let yes = self.reachable(yes, 0);
        let reach = |place| {
            u8::try_from(self.distance(place)).expect("`reachable` keeps targets within 255")
        };
        self.push(Instruction {
            code,
            when_true: reach(yes),
            when_false: reach(no),
            constant,
        })
    }

    /// A balanced search for the number in the accumulator; `ranges` is sorted, not empty, and its
    /// first range starts at the lowest possible number.
    pub(crate) fn search(&mut self, ranges: &[Range]) -> Place {
        if let [one] = ranges {
            return match &one.body {
                Body::Return(value) => self.returns(*value),
                Body::Code(code) => {
                    let (first, rest) = code.split_first().expect("code returns, so is not empty");
                    rest.iter().rev().for_each(|step| {
                        self.push(*step);
                    });
                    self.push(*first)
                }
            };
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let start = high[0].start;
        let high = self.search(high);
        let low = self.search(low);
        self.branch(JUMP_GREATER_EQUAL, start, high, low)
    }

    /// The program, if it is to start at `entry`.
    pub(crate) fn finish(mut self, entry: Place) -> Vec<Instruction> {
        let distance = self.distance(entry);
        if distance > 0 {
            let constant = u32::try_from(distance).unwrap_or(u32::MAX);
            self.push(Instruction::plain(JUMP, constant));
        }
        self.reversed.reverse();
        self.reversed
    }

    /// Instructions between the next one to be written and `place`.
    fn distance(&self, place: Place) -> usize {
        self.reversed.len() - place.0 - 1
    }

    /// `place`, or a jump to it when a conditional jump written after `more` others can't reach it.
    fn reachable(&mut self, place: Place, more: usize) -> Place {
        let distance = self.distance(place);
        if distance + more <= usize::from(u8::MAX) {
            return place;
        }
        let constant = u32::try_from(distance).unwrap_or(u32::MAX);
        self.push(Instruction::plain(JUMP, constant))
    }
}
