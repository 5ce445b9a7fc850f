//! Vectors of packed elements.

/// A number that a vector holds several of.
pub trait Element: Copy {
    /// Its width in bytes.
    const BYTES: usize;
    /// The element in the first bytes of `bytes`, least significant first.
    fn read(bytes: &[u8]) -> Self;
    /// Writes it to the first bytes of `bytes`.
    fn write(self, bytes: &mut [u8]);
}

macro_rules! element {
    ($($type:ty),*) => {$(
        impl Element for $type {
            const BYTES: usize = size_of::<$type>();

            #[inline(always)]
            fn read(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(&bytes[..size_of::<$type>()]);
                <$type>::from_le_bytes(own)
            }

            #[inline(always)]
            fn write(self, bytes: &mut [u8]) {
                bytes[..size_of::<$type>()].copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

element!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// `N` bytes of packed elements, the first in the lowest bytes.
///
/// An array and no `u128`: the compiler keeps arrays in vector registers and turns the loops below into the very
/// instructions they describe, where it would take integers apart byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector<const N: usize>(pub [u8; N]);

/// An SSE register.
pub type Xmm = Vector<16>;
/// An MMX register.
pub type Mmx = Vector<8>;

impl<const N: usize> Default for Vector<N> {
    fn default() -> Self {
        Self::ZERO
    }
}

impl From<u128> for Xmm {
    #[inline(always)]
    fn from(value: u128) -> Self {
        Self(value.to_le_bytes())
    }
}

impl From<Xmm> for u128 {
    #[inline(always)]
    fn from(value: Xmm) -> Self {
        u128::from_le_bytes(value.0)
    }
}

impl From<u64> for Mmx {
    #[inline(always)]
    fn from(value: u64) -> Self {
        Self(value.to_le_bytes())
    }
}

impl From<Mmx> for u64 {
    #[inline(always)]
    fn from(value: Mmx) -> Self {
        u64::from_le_bytes(value.0)
    }
}

impl<const N: usize> Vector<N> {
    /// All bits clear.
    pub const ZERO: Self = Self([0; N]);

    /// How many elements of type `E` it has.
    #[inline(always)]
    pub fn count<E: Element>() -> usize {
        N / E::BYTES
    }

    /// Element `index`, which is below [`Vector::count`].
    #[inline(always)]
    pub fn get<E: Element>(&self, index: usize) -> E {
        E::read(&self.0[index * E::BYTES..])
    }

    /// The same with element `index`, which is below [`Vector::count`], replaced.
    #[inline(always)]
    #[must_use]
    pub fn with<E: Element>(mut self, index: usize, value: E) -> Self {
        value.write(&mut self.0[index * E::BYTES..]);
        self
    }

    /// The vector whose elements are `element(0)`, `element(1)` and so on.
    #[inline(always)]
    pub fn build<E: Element>(mut element: impl FnMut(usize) -> E) -> Self {
        let mut result = [0; N];
        for (index, bytes) in result.chunks_exact_mut(E::BYTES).enumerate() {
            element(index).write(bytes);
        }
        Self(result)
    }

    /// `f` of each element.
    #[inline(always)]
    pub fn map<E: Element>(self, mut f: impl FnMut(E) -> E) -> Self {
        Self::build(|index| f(self.get(index)))
    }

    /// `f` of each pair of elements.
    #[inline(always)]
    pub fn zip<E: Element>(self, other: Self, mut f: impl FnMut(E, E) -> E) -> Self {
        Self::build(|index| f(self.get(index), other.get(index)))
    }
}
