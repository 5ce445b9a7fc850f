//! Which functions execute operations, by numbers: an operation names no address, so it can be another process's.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::exec;
use crate::lower::Lowered;
use crate::op::{Handler, Op, op};
use crate::store::NumberHasher;

/// Numbers there are. A guest needs some hundreds.
const NUMBERS: usize = 2048;
/// What has no number yet may get one while so many are left.
const ROOM: usize = 64;

/// The number of what raises #UD.
pub(crate) const UNDEFINED: u16 = 0;
/// The number of what ends a block that was cut.
pub(crate) const FALL_THROUGH: u16 = 1;

/// The handlers of one CPU's operations.
pub(crate) struct Handlers {
    /// Numbers without one have that of [`UNDEFINED`].
    table: [Handler; NUMBERS],
    numbers: HashMap<usize, u16, BuildHasherDefault<NumberHasher>>,
    used: usize,
}

impl Handlers {
    /// [`UNDEFINED`] and [`FALL_THROUGH`].
    pub(crate) fn new() -> Self {
        let undefined = op!(exec::system::undefined);
        let mut new = Self {
            table: [undefined; NUMBERS],
            numbers: HashMap::default(),
            used: 0,
        };
        new.number(undefined);
        new.number(op!(exec::control::fall_through));
        new
    }

    /// What executes `op`.
    #[inline(always)]
    pub(crate) fn get(&self, op: &Op) -> Handler {
        self.table[usize::from(op.handler) % NUMBERS]
    }

    /// The number of `handler`, which has one then; that of [`UNDEFINED`] when there is none left.
    fn number(&mut self, handler: Handler) -> u16 {
        let number = *self
            .numbers
            .entry(handler as usize)
            .or_insert(self.used as u16);
        if usize::from(number) == self.used {
            let Some(place) = self.table.get_mut(self.used) else {
                self.numbers.remove(&(handler as usize));
                return UNDEFINED;
            };
            *place = handler;
            self.used += 1;
        }
        number
    }

    /// The number of `handler`, if it has one.
    pub(crate) fn find(&self, handler: Handler) -> Option<u16> {
        self.numbers.get(&(handler as usize)).copied()
    }

    /// The operation that an instruction was lowered to.
    pub(crate) fn op(&mut self, lowered: &Lowered) -> Op {
        Op {
            handler: self.number(lowered.run),
            ..lowered.op
        }
    }

    /// Gives `handler` the number that is the next; false when it has one, or none is left.
    pub(crate) fn push(&mut self, handler: Handler) -> bool {
        let next = self.used;
        usize::from(self.number(handler)) == next && next < NUMBERS
    }

    /// Leaves the next number without a handler; false when none is left.
    pub(crate) fn skip(&mut self) -> bool {
        self.used += 1;
        self.used <= NUMBERS
    }

    /// How many numbers are given.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Whether a block may need numbers that there are not.
    pub(crate) fn is_full(&self) -> bool {
        self.used > NUMBERS - ROOM
    }
}
