//! What a guest has been told its processor is, and whether another one can stand in for it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One answer of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidLeaf {
    /// EAX of the question.
    pub function: u32,
    /// ECX of the question; 0 where it does not matter.
    pub index: u32,
    /// EAX, EBX, ECX and EDX of the answer.
    pub registers: [u32; 4],
}

/// What CPUID says on the first CPU of a machine.
///
/// A guest looks once, when it boots, and then uses what it found: a machine saved on one processor can go on on another
/// only if that has the same maker, all features, and vector state in the same places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Processor(pub Vec<CpuidLeaf>);

/// Why a guest cannot go on on another processor than its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mismatch {
    /// Another maker: instructions for system calls differ.
    Vendor {
        /// Whose the guest's is.
        guest: String,
        /// Whose is here.
        here: String,
    },
    /// Features that are not here, by the names of the manuals.
    Features(Vec<String>),
    /// A component of XSAVE that is laid out differently, or not here.
    VectorState(u32),
    /// Fewer bits of physical addresses.
    PhysicalBits {
        /// The guest's.
        guest: u32,
        /// Those here.
        here: u32,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vendor { guest, here } => write!(f, "it is {guest}, not {here}"),
            Self::Features(names) => write!(f, "it has {}", names.join(", ")),
            Self::VectorState(id) => write!(f, "it keeps XSAVE component {id} elsewhere"),
            Self::PhysicalBits { guest, here } => {
                write!(f, "it has {guest} bits of physical address, not {here}")
            }
        }
    }
}

const REGISTERS: [&str; 4] = ["EAX", "EBX", "ECX", "EDX"];

/// Where features are: function, subleaf, register, and the bits there that say something else.
const WORDS: &[(u32, u32, usize, u32)] = &[
    // OSXSAVE mirrors CR4.
    (1, 0, 2, 1 << 27),
    // HTT says how many CPUs there are.
    (1, 0, 3, 1 << 28),
    (7, 0, 1, 0),
    // OSPKE mirrors CR4.
    (7, 0, 2, 1 << 4),
    (7, 0, 3, 0),
    (7, 1, 0, 0),
    (7, 1, 3, 0),
    (7, 2, 3, 0),
    (0xD, 0, 0, 0),
    (0xD, 1, 0, 0),
    // CLOCKSOURCE: a guest that knows CLOCKSOURCE2 takes that, which every backend has.
    (0x4000_0001, 0, 0, 1),
    // CMP_LEGACY says how many CPUs there are.
    (0x8000_0001, 0, 2, 1 << 1),
    (0x8000_0001, 0, 3, 0),
    (0x8000_0007, 0, 3, 0),
    (0x8000_0008, 0, 1, 0),
    (0x8000_0021, 0, 0, 0),
];

/// Names of features that people know: function, subleaf, register, bit (Intel SDM vol. 2 "CPUID").
const NAMES: &[(u32, u32, usize, u32, &str)] = &[
    (1, 0, 2, 1, "PCLMULQDQ"),
    (1, 0, 2, 12, "FMA"),
    (1, 0, 2, 22, "MOVBE"),
    (1, 0, 2, 25, "AES"),
    (1, 0, 2, 26, "XSAVE"),
    (1, 0, 2, 28, "AVX"),
    (1, 0, 2, 29, "F16C"),
    (1, 0, 2, 30, "RDRAND"),
    (7, 0, 1, 0, "FSGSBASE"),
    (7, 0, 1, 3, "BMI1"),
    (7, 0, 1, 5, "AVX2"),
    (7, 0, 1, 7, "SMEP"),
    (7, 0, 1, 8, "BMI2"),
    (7, 0, 1, 10, "INVPCID"),
    (7, 0, 1, 16, "AVX512F"),
    (7, 0, 1, 18, "RDSEED"),
    (7, 0, 1, 19, "ADX"),
    (7, 0, 1, 20, "SMAP"),
    (7, 0, 1, 29, "SHA"),
    (7, 0, 2, 2, "UMIP"),
    (7, 0, 2, 3, "PKU"),
    (7, 0, 3, 26, "SPEC_CTRL"),
    (7, 0, 3, 29, "ARCH_CAPABILITIES"),
    (0x8000_0007, 0, 3, 8, "an invariant TSC"),
];

impl Processor {
    /// Whether a guest that found this processor can go on on the one that is `here`. One of which nothing is known fits
    /// everywhere.
    ///
    /// # Errors
    /// What does not fit, the gravest first.
    pub fn fits(&self, here: &Self) -> Result<(), Mismatch> {
        if self.0.is_empty() || here.0.is_empty() {
            return Ok(());
        }
        let (guest, vendor) = (self.vendor(), here.vendor());
        if guest != vendor {
            let here = vendor;
            return Err(Mismatch::Vendor { guest, here });
        }
        let missing: Vec<_> = WORDS
            .iter()
            .flat_map(|word| self.missing(here, word))
            .collect();
        if !missing.is_empty() {
            return Err(Mismatch::Features(missing));
        }
        let components = self.0.iter().filter(|leaf| {
            leaf.function == 0xD && (2..64).contains(&leaf.index) && leaf.registers[0] != 0
        });
        for leaf in components {
            let [len, offset, ..] = here.leaf(0xD, leaf.index);
            if leaf.registers[..2] != [len, offset] {
                return Err(Mismatch::VectorState(leaf.index));
            }
        }
        let bits = |processor: &Self| processor.leaf(0x8000_0008, 0)[0] & 0xFF;
        let (guest, here) = (bits(self), bits(here));
        if guest > here {
            return Err(Mismatch::PhysicalBits { guest, here });
        }
        Ok(())
    }

    /// The answer to one question; zeros where there is none.
    fn leaf(&self, function: u32, index: u32) -> [u32; 4] {
        let found = self
            .0
            .iter()
            .find(|leaf| leaf.function == function && leaf.index == index);
        found.map_or([0; 4], |leaf| leaf.registers)
    }

    fn vendor(&self) -> String {
        let [_, ebx, ecx, edx] = self.leaf(0, 0);
        let bytes = [ebx, edx, ecx].map(u32::to_le_bytes).concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Names of the features of one word that are not `here`.
    fn missing(&self, here: &Self, word: &(u32, u32, usize, u32)) -> Vec<String> {
        let &(function, index, register, other) = word;
        let value = |processor: &Self| processor.leaf(function, index)[register];
        let lacking = value(self) & !value(here) & !other;
        (0..32)
            .filter(|bit| lacking >> bit & 1 != 0)
            .map(|bit| {
                let place = (function, index, register, bit);
                let name = NAMES
                    .iter()
                    .find(|name| (name.0, name.1, name.2, name.3) == place);
                name.map_or_else(
                    || {
                        format!(
                            "CPUID {function:#x}.{index} {} bit {bit}",
                            REGISTERS[register]
                        )
                    },
                    |name| name.4.to_owned(),
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(leaves: &[(u32, u32, [u32; 4])]) -> Processor {
        let leaf = |&(function, index, registers)| CpuidLeaf {
            function,
            index,
            registers,
        };
        Processor(leaves.iter().map(leaf).collect())
    }

    const AMD: (u32, u32, [u32; 4]) = (0, 0, [0xD, 0x6874_7541, 0x444D_4163, 0x6974_6E65]);
    const INTEL: (u32, u32, [u32; 4]) = (0, 0, [0xD, 0x756E_6547, 0x6C65_746E, 0x4965_6E69]);

    #[test]
    fn a_processor_with_more_stands_in_for_one_with_less() {
        let less = processor(&[
            AMD,
            (1, 0, [5, 6, 1 << 27 | 1, 1]),
            (0xD, 2, [256, 576, 0, 0]),
        ]);
        let more = processor(&[
            AMD,
            (1, 0, [7, 8, 1 << 28 | 1, 3]),
            (0xD, 2, [256, 576, 0, 0]),
        ]);
        assert_eq!(less.fits(&more), Ok(()));
        assert_eq!(less.fits(&less), Ok(()));
        let why = more.fits(&less).unwrap_err().to_string();
        assert_eq!(why, "it has AVX, CPUID 0x1.0 EDX bit 1");
        assert_eq!(Processor::default().fits(&more), Ok(()));
        assert_eq!(more.fits(&Processor::default()), Ok(()));
    }

    #[test]
    fn another_maker_and_another_layout_do_not_fit() {
        let why = processor(&[INTEL]).fits(&processor(&[AMD])).unwrap_err();
        assert_eq!(why.to_string(), "it is GenuineIntel, not AuthenticAMD");
        let state = |offset| processor(&[AMD, (0xD, 9, [8, offset, 0, 0])]);
        assert_eq!(
            state(2688).fits(&state(2432)),
            Err(Mismatch::VectorState(9))
        );
        assert_eq!(
            state(2688).fits(&processor(&[AMD])),
            Err(Mismatch::VectorState(9))
        );
        let bits = |bits| processor(&[AMD, (0x8000_0008, 0, [bits, 0, 0, 0])]);
        let (guest, here) = (48, 40);
        assert_eq!(
            bits(48).fits(&bits(40)),
            Err(Mismatch::PhysicalBits { guest, here })
        );
        assert_eq!(bits(40).fits(&bits(48)), Ok(()));
    }
}
