// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Links, paths and children of QOM objects.
//!
//! ```no_run
//! use qemu_ext::object::{for_each_object, ObjectExt};
//! use qom::prelude::*;
//!
//! fn count_disks() -> usize {
//!     let mut count = 0;
//!     for_each_object(|object| count += usize::from(object.is_a(c"scsi-hd")));
//!     count
//! }
//! ```

use std::{
    ffi::{c_char, c_int, c_void, CStr},
    ptr::{self, addr_of_mut},
};

use qom::prelude::*;

use crate::bindings;

/// Methods of all objects.
pub trait ObjectExt: ObjectDeref
where
    Self::Target: IsA<Object>,
{
    /// Returns whether the object is of the type of this name, or of a subtype.
    fn is_a(&self, type_name: &CStr) -> bool {
        // SAFETY: a valid object and a string; the result is the object or NULL
        unsafe {
            !qom::bindings::object_dynamic_cast(
                self.as_mut_ptr::<Object>().cast(),
                type_name.as_ptr(),
            )
            .is_null()
        }
    }

    /// Returns whether the property `name` is a link that leads to an object.
    fn has_link(&self, name: &CStr) -> bool {
        assert!(bql::is_locked());
        // SAFETY: a valid object and a string; there is no Error for a NULL errp
        unsafe {
            !qom::bindings::object_property_get_link(
                self.as_mut_ptr::<Object>().cast(),
                name.as_ptr(),
                ptr::null_mut(),
            )
            .is_null()
        }
    }

    /// Returns the name of the object in its parent.
    fn path_component(&self) -> Option<String> {
        assert!(bql::is_locked());
        // SAFETY: a valid object; the name is NULL or stays while the object is where it
        // is, which the BQL keeps as it is
        unsafe {
            copy(qom::bindings::object_get_canonical_path_component(
                self.as_mut_ptr::<Object>().cast(),
            ))
        }
    }

    /// Returns the path of the object in the tree of objects.
    fn canonical_path(&self) -> Option<String> {
        assert!(bql::is_locked());
        // SAFETY: a valid object; the path is NULL or allocated for the caller
        unsafe {
            let path = qom::bindings::object_get_canonical_path(self.as_mut_ptr::<Object>().cast());
            let copied = copy(path);
            glib_sys::g_free(path.cast());
            copied
        }
    }
}

impl<R: ObjectDeref> ObjectExt for R where R::Target: IsA<Object> {}

/// Returns a copy of a C string, or `None` for NULL.
///
/// # Safety
///
/// `string` must be NULL or NUL-terminated.
pub(crate) unsafe fn copy(string: *const c_char) -> Option<String> {
    // SAFETY: promised by the caller
    (!string.is_null()).then(|| {
        unsafe { CStr::from_ptr(string) }
            .to_string_lossy()
            .into_owned()
    })
}

/// Calls `function` with every object of the tree.
pub fn for_each_object<F: FnMut(&Object)>(mut function: F) {
    unsafe extern "C" fn call<F: FnMut(&Object)>(
        object: *mut bindings::Object,
        opaque: *mut c_void,
    ) -> c_int {
        // SAFETY: an object of the tree, and the function below
        unsafe { (*opaque.cast::<F>())(&*object.cast::<Object>()) }
        0
    }
    assert!(bql::is_locked());
    // SAFETY: the callee keeps nothing; the BQL keeps the tree as it is
    unsafe {
        qom::bindings::object_child_foreach_recursive(
            qom::bindings::object_get_root(),
            Some(call::<F>),
            addr_of_mut!(function).cast(),
        );
    }
}
