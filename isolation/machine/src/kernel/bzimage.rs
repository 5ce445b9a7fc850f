//! The bzImage: boot sector, setup header, and a compressed ELF inside.
//!
//! Source: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".

use crate::error::NotAKernel;

/// Offset of the setup header in the image and in the zero page.
const HEADER: usize = 0x1F1;
/// First byte after the longest setup header that fits into the zero page.
const HEADER_LIMIT: usize = 0x290;

/// The setup header, to be copied into the zero page at [`SetupHeader::OFFSET`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupHeader {
    bytes: Vec<u8>,
}

impl SetupHeader {
    /// Where it lies in image and zero page.
    pub const OFFSET: usize = HEADER;

    /// Its bytes, 0x77 to 0x9F of them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The header a kernel without one (a plain ELF) would have: protocol 2.15, nothing special.
    pub fn of_plain_elf() -> Self {
        let mut bytes = vec![0; 0x268 - HEADER];
        let mut put =
            |at: usize, value: &[u8]| bytes[at - HEADER..][..value.len()].copy_from_slice(value);
        put(0x1FE, &[0x55, 0xAA]);
        put(0x202, b"HdrS");
        put(0x206, &0x20F_u16.to_le_bytes());
        put(0x211, &[1]);
        put(0x22C, &0x7FFF_FFFF_u32.to_le_bytes());
        put(0x230, &0x20_0000_u32.to_le_bytes());
        put(0x238, &2047_u32.to_le_bytes());
        Self { bytes }
    }

    /// The last address the initial ramdisk may touch.
    pub fn initrd_limit(&self) -> u32 {
        self.u32_at(0x22C)
    }

    /// The longest command line, without its NUL.
    pub fn command_line_limit(&self) -> usize {
        self.u32_at(0x238) as usize
    }

    fn u32_at(&self, at: usize) -> u32 {
        let start = at - HEADER;
        let bytes = self.bytes.get(start..start + 4);
        bytes.map_or(0, |four| {
            u32::from_le_bytes([four[0], four[1], four[2], four[3]])
        })
    }
}

/// What is where in a bzImage.
#[derive(Clone, Debug)]
pub struct BzImage<'a> {
    /// Its setup header.
    pub header: SetupHeader,
    /// The compressed ELF, with four bytes behind it (but in gzip, before its end) that say its size.
    pub payload: &'a [u8],
    /// The version it names: `6.1.0-56-cloud-amd64 (…) #1 SMP …`.
    pub version: String,
}

impl<'a> BzImage<'a> {
    /// Whether `image` begins as a bzImage does.
    pub fn is_one(image: &[u8]) -> bool {
        image.get(0x202..0x206) == Some(b"HdrS")
    }

    /// Takes an image apart.
    ///
    /// # Errors
    /// [`NotAKernel`] for other files, 32-bit kernels, and protocols before 2.12 (Linux 3.8).
    pub fn parse(image: &'a [u8]) -> Result<Self, NotAKernel> {
        if !Self::is_one(image) {
            return Err(NotAKernel::Format);
        }
        let protocol = u16_at(image, 0x206)?;
        if protocol < 0x20C {
            return Err(NotAKernel::Old(protocol));
        }
        if u16_at(image, 0x236)? & 1 == 0 {
            return Err(NotAKernel::Only32Bit);
        }
        // The jump over the header says how long it is.
        let end = 0x202 + usize::from(byte_at(image, 0x201)?);
        let end = end.clamp(0x268, HEADER_LIMIT);
        let bytes = image.get(HEADER..end).ok_or(NotAKernel::Short)?.to_vec();
        let sectors = match byte_at(image, HEADER)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let protected = (sectors + 1) * 512;
        let start = protected
            .checked_add(u32_at(image, 0x248)? as usize)
            .ok_or(NotAKernel::Short)?;
        let end = start
            .checked_add(u32_at(image, 0x24C)? as usize)
            .ok_or(NotAKernel::Short)?;
        let payload = image.get(start..end).ok_or(NotAKernel::Short)?;
        Ok(Self {
            header: SetupHeader { bytes },
            payload,
            version: version(image)?,
        })
    }
}

/// The version text, at the header's pointer plus 0x200.
fn version(image: &[u8]) -> Result<String, NotAKernel> {
    let at = usize::from(u16_at(image, 0x20E)?) + 0x200;
    let text = image.get(at..).unwrap_or_default();
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = &text[..text.len().min(256)];
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn byte_at(image: &[u8], at: usize) -> Result<u8, NotAKernel> {
    image.get(at).copied().ok_or(NotAKernel::Short)
}

fn u16_at(image: &[u8], at: usize) -> Result<u16, NotAKernel> {
    Ok(u16::from_le_bytes([
        byte_at(image, at)?,
        byte_at(image, at + 1)?,
    ]))
}

fn u32_at(image: &[u8], at: usize) -> Result<u32, NotAKernel> {
    let bytes = image.get(at..at + 4).ok_or(NotAKernel::Short)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A bzImage around `payload`.
    pub(crate) fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        let header = SetupHeader::of_plain_elf();
        image[HEADER..HEADER + header.bytes().len()].copy_from_slice(header.bytes());
        image[HEADER] = 1;
        image[0x201] = 0x66;
        image[0x20E..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x236] = 3;
        image[0x300..0x306].copy_from_slice(b"6.1-x\0");
        image[0x248..0x24C].copy_from_slice(&16u32.to_le_bytes());
        let len = u32::try_from(payload.len()).unwrap();
        image[0x24C..0x250].copy_from_slice(&len.to_le_bytes());
        image.extend([0xCC; 16]);
        image.extend(payload);
        image
    }

    #[test]
    fn parts_are_found() {
        let bytes = image(b"payload");
        let image = BzImage::parse(&bytes).unwrap();
        assert_eq!(image.payload, b"payload");
        assert_eq!(image.version, "6.1-x");
        assert_eq!(image.header.bytes().len(), 0x77);
        assert_eq!(image.header.initrd_limit(), 0x7FFF_FFFF);
        assert_eq!(image.header.command_line_limit(), 2047);
    }

    #[test]
    fn other_files_are_refused_for_their_reason() {
        assert_eq!(BzImage::parse(b"MZ").unwrap_err(), NotAKernel::Format);
        let good = image(b"payload");
        let cut = BzImage::parse(&good[..good.len() - 1]);
        assert_eq!(cut.unwrap_err(), NotAKernel::Short);
        let mut old = good.clone();
        old[0x206] = 0;
        assert_eq!(BzImage::parse(&old).unwrap_err(), NotAKernel::Old(0x200));
        let mut small = good;
        small[0x236] = 0;
        assert_eq!(BzImage::parse(&small).unwrap_err(), NotAKernel::Only32Bit);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(changes in prop::collection::vec((0usize..0x310, any::<u8>()), 0..40), cut in 0usize..2000) {
            let mut bytes = image(b"payload");
            for (at, value) in changes {
                if !(0x202..0x208).contains(&at) {
                    bytes[at] = value;
                }
            }
            bytes.truncate(cut);
            let _ = BzImage::parse(&bytes);
        }
    }
}
