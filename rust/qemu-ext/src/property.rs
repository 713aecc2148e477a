// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Read-only properties of objects, with structured values.
//!
//! They belong to one object, not to its type, so nothing that lists the properties of the
//! type shows them. Users read them by `qom-get`.
//!
//! ```no_run
//! use hwcore::prelude::*;
//! use qemu_ext::property::{add_read_only, Value};
//! use qom::prelude::*;
//!
//! trait Disk: IsA<Object> + ObjectType {
//!     fn reads(&self) -> u64;
//!
//!     fn statistics(&self) -> Value {
//!         Value::Struct(vec![
//!             (c"reads", self.reads().into()),
//!             (c"sizes", Value::List(vec![Value::U64(512), Value::U64(4096)])),
//!         ])
//!     }
//! }
//!
//! fn realize<T: Disk>(disk: &T) {
//!     add_read_only(disk, c"statistics", c"DiskStatistics", &T::statistics);
//! }
//! ```

use std::{
    ffi::{c_char, c_void, CStr, CString},
    ptr,
};

use common::callbacks::FnCall;
use qom::prelude::*;
use util::bindings::{
    visit_check_list, visit_check_struct, visit_end_list, visit_end_struct, visit_start_list,
    visit_start_struct, visit_type_bool, visit_type_str, visit_type_uint64, Error, Visitor,
};

use crate::bindings::Object as CObject;

/// A value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `true` or `false`
    Bool(bool),
    /// A number
    U64(u64),
    /// A string; one with a NUL is shown as an empty one
    String(String),
    /// An array
    List(Vec<Self>),
    /// An object: names and values. A name occurs once.
    Struct(Vec<(&'static CStr, Self)>),
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::U64(value.into())
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl Value {
    /// Gives the value to a visitor, under `name`, which is NULL in a list. Returns whether
    /// the visitor has set no error.
    ///
    /// # Safety
    ///
    /// `visitor` must be a visitor that is to be given a value, which it only reads;
    /// `name` NULL or a string; `errp` as for functions in C.
    unsafe fn visit(
        &self,
        visitor: *mut Visitor,
        name: *const c_char,
        errp: *mut *mut Error,
    ) -> bool {
        // SAFETY: visitor, name and errp are promised by the caller. Each value is a copy
        // that outlives the call. A NULL object makes the visit a virtual one, in which
        // nothing but the values is accessed. Every visit of a list or struct that is started
        // is ended, even if a visit in between fails.
        unsafe {
            match self {
                Self::Bool(value) => visit_type_bool(visitor, name, &mut { *value }, errp),
                Self::U64(value) => visit_type_uint64(visitor, name, &mut { *value }, errp),
                Self::String(value) => {
                    let copy = CString::new(value.as_str()).unwrap_or_default();
                    visit_type_str(visitor, name, &mut copy.as_ptr().cast_mut(), errp)
                }
                Self::List(values) => {
                    if !visit_start_list(visitor, name, ptr::null_mut(), 0, errp) {
                        return false;
                    }
                    let is_good = values
                        .iter()
                        .all(|value| value.visit(visitor, ptr::null(), errp))
                        && visit_check_list(visitor, errp);
                    visit_end_list(visitor, ptr::null_mut());
                    is_good
                }
                Self::Struct(members) => {
                    if !visit_start_struct(visitor, name, ptr::null_mut(), 0, errp) {
                        return false;
                    }
                    let is_good = members
                        .iter()
                        .all(|(member, value)| value.visit(visitor, member.as_ptr(), errp))
                        && visit_check_struct(visitor, errp);
                    visit_end_struct(visitor, ptr::null_mut());
                    is_good
                }
            }
        }
    }
}

/// Adds the read-only property `name` to `object`, unless it has one of that name.
/// `type_name` is what users see as its type. `F` returns its value, with the Big QEMU
/// Lock (BQL) held.
pub fn add_read_only<T, F>(object: &T, name: &CStr, type_name: &CStr, _getter: &F)
where
    T: IsA<Object> + ObjectType,
    F: for<'a> FnCall<(&'a T,), Value>,
{
    unsafe extern "C" fn get<T, F: for<'a> FnCall<(&'a T,), Value>>(
        object: *mut CObject,
        visitor: *mut Visitor,
        name: *const c_char,
        _opaque: *mut c_void,
        errp: *mut *mut Error,
    ) {
        // SAFETY: QOM reads a property of the object that the property was added to, which
        // is a `T` and stays while it is read
        let value = F::call((unsafe { &*object.cast::<T>() },));
        // SAFETY: QOM gives a getter an output visitor, the property's name, and an errp
        unsafe {
            value.visit(visitor, name, errp);
        }
    }
    const { assert!(F::IS_SOME) };
    assert!(bql::is_locked());
    // SAFETY: a valid object. The callee copies the strings. The function has the type of
    // an accessor, and needs nothing that could go before the object. A NULL errp ignores
    // the error that there is such a property.
    unsafe {
        qom::bindings::object_property_try_add(
            object.upcast::<Object>().as_mut_ptr(),
            name.as_ptr(),
            type_name.as_ptr(),
            Some(get::<T, F>),
            None,
            None,
            ptr::null_mut(),
            ptr::null_mut(),
        );
    }
}
