//! Has the linker begin each part of the program where a huge page can begin: `sys::image` moves the parts that never
//! change to such pages.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for option in ["max-page-size=0x200000", "separate-loadable-segments"] {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,{option}");
    }
}
