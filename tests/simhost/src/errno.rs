// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Errors as the kernel returns them, with their names.

use std::fmt;

/// A number from errno.h.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// The result of a simulated call.
pub type Result<T> = std::result::Result<T, Errno>;

macro_rules! errnos {
    ($($name:ident)*) => {
        impl Errno {
            $(#[doc = concat!("`", stringify!($name), "`")]
            pub const $name: Self = Self(libc::$name);)*

            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name)),)*];
        }
    };
}

errnos! {
    E2BIG EACCES EAGAIN EBADF EBUSY EEXIST EFAULT EINTR EINVAL EIO EMSGSIZE ENODEV ENOENT ENOMEM
    ENOSPC ENOTTY ENXIO EOPNOTSUPP EOVERFLOW EPERM ERANGE ETIMEDOUT
}

impl Errno {
    /// Returns the error called `name`.
    pub fn named(name: &str) -> Option<Self> {
        let entry = Self::ALL.iter().find(|(_, known)| *known == name);
        entry.map(|(errno, _)| *errno)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::ALL.iter().find(|(errno, _)| errno == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "errno-{}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
