// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Values as bytes, for the state that processes share ([`crate::shared`]).
//!
//! All processes load the same library, so the form needs no version.

use std::collections::{BTreeMap, BTreeSet};

/// A value that can be stored as bytes.
pub trait Stored: Sized {
    /// Appends the value.
    fn store(&self, bytes: &mut Vec<u8>);

    /// Takes a value off the front, or returns `None` if there is none.
    fn load(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! stored_numbers {
    ($($number:ty)*) => {$(
        impl Stored for $number {
            fn store(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }

            fn load(bytes: &mut &[u8]) -> Option<Self> {
                let (value, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_le_bytes(*value))
            }
        }
    )*};
}

stored_numbers! { u8 u16 u32 u64 usize }

/// Makes a struct with these fields one that can be stored.
macro_rules! stored_struct {
    ($type:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::stored::Stored for $type {
            fn store(&self, bytes: &mut Vec<u8>) {
                $(self.$field.store(bytes);)+
            }

            fn load(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: $crate::stored::Stored::load(bytes)?),+ })
            }
        }
    };
}

/// Makes an enum with these variants, each with a number, one that can be stored.
macro_rules! stored_enum {
    ($type:ident {
        $($number:literal = $variant:ident $({ $($field:ident),+ })? $(($inner:ident))?),+ $(,)?
    }) => {
        impl $crate::stored::Stored for $type {
            fn store(&self, bytes: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),+ })? $(($inner))? => {
                        bytes.push($number);
                        $($($field.store(bytes);)+)?
                        $($inner.store(bytes);)?
                    })+
                }
            }

            fn load(bytes: &mut &[u8]) -> Option<Self> {
                match u8::load(bytes)? {
                    $($number => {
                        $($(let $field = $crate::stored::Stored::load(bytes)?;)+)?
                        $(let $inner = $crate::stored::Stored::load(bytes)?;)?
                        Some(Self::$variant $({ $($field),+ })? $(($inner))?)
                    })+
                    _ => None,
                }
            }
        }
    };
}

/// Makes a struct with one field without a name one that can be stored.
macro_rules! stored_newtype {
    ($type:ident) => {
        impl $crate::stored::Stored for $type {
            fn store(&self, bytes: &mut Vec<u8>) {
                self.0.store(bytes);
            }

            fn load(bytes: &mut &[u8]) -> Option<Self> {
                $crate::stored::Stored::load(bytes).map(Self)
            }
        }
    };
}

pub(crate) use {stored_enum, stored_newtype, stored_struct};

impl Stored for bool {
    fn store(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn load(bytes: &mut &[u8]) -> Option<Self> {
        u8::load(bytes).map(|value| value != 0)
    }
}

impl Stored for String {
    fn store(&self, bytes: &mut Vec<u8>) {
        self.len().store(bytes);
        bytes.extend(self.as_bytes());
    }

    fn load(bytes: &mut &[u8]) -> Option<Self> {
        let length = usize::load(bytes)?;
        let (text, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Self::from_utf8(text.to_vec()).ok()
    }
}

impl<T: Stored> Stored for Option<T> {
    fn store(&self, bytes: &mut Vec<u8>) {
        self.is_some().store(bytes);
        if let Some(value) = self {
            value.store(bytes);
        }
    }

    #[allow(clippy::option_option)]
    fn load(bytes: &mut &[u8]) -> Option<Self> {
        if bool::load(bytes)? {
            T::load(bytes).map(Some)
        } else {
            Some(None)
        }
    }
}

impl Stored for [u64; 2] {
    fn store(&self, bytes: &mut Vec<u8>) {
        self.iter().for_each(|value| value.store(bytes));
    }

    fn load(bytes: &mut &[u8]) -> Option<Self> {
        Some([u64::load(bytes)?, u64::load(bytes)?])
    }
}

impl<A: Stored, B: Stored> Stored for (A, B) {
    fn store(&self, bytes: &mut Vec<u8>) {
        self.0.store(bytes);
        self.1.store(bytes);
    }

    fn load(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::load(bytes)?, B::load(bytes)?))
    }
}

impl<K: Stored + Ord, V: Stored> Stored for BTreeMap<K, V> {
    fn store(&self, bytes: &mut Vec<u8>) {
        self.len().store(bytes);
        for (key, value) in self {
            key.store(bytes);
            value.store(bytes);
        }
    }

    fn load(bytes: &mut &[u8]) -> Option<Self> {
        let count = usize::load(bytes)?;
        (0..count).map(|_| Stored::load(bytes)).collect()
    }
}

impl<K: Stored + Ord> Stored for BTreeSet<K> {
    fn store(&self, bytes: &mut Vec<u8>) {
        self.len().store(bytes);
        self.iter().for_each(|value| value.store(bytes));
    }

    fn load(bytes: &mut &[u8]) -> Option<Self> {
        let count = usize::load(bytes)?;
        (0..count).map(|_| K::load(bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_value_is_loaded_and_short_one_is_refused() {
        type Value = BTreeMap<(String, u32), (Option<[u64; 2]>, BTreeSet<u16>)>;

        let mut value = Value::new();
        value.insert(("a".into(), 7), (Some([1, u64::MAX]), [3, 4].into()));
        value.insert(("b".into(), 8), (None, BTreeSet::new()));
        let mut bytes = Vec::new();
        value.store(&mut bytes);
        let mut rest = &bytes[..];
        assert_eq!(Value::load(&mut rest), Some(value));
        assert_eq!(rest, [0; 0]);
        for length in 0..bytes.len() {
            assert_eq!(Value::load(&mut &bytes[..length]), None, "{length}");
        }
    }
}
