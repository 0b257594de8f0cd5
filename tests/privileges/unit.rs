//! The daemon under the rights that its unit gives it.
