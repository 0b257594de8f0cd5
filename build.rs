//! Has the linker begin each part of the program where a huge page can begin: `sys::image` moves the parts that never
//! change to such pages.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|library| library != "gnu") {
        println!(
            "cargo::warning=the sandbox knows the system calls of glibc: with this C library it will end processes"
        );
    }
    for option in ["max-page-size=0x200000", "separate-loadable-segments"] {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,{option}");
    }
}
