//! Typed notes between handlers: read any, write only your own.
//!
//! A note is a type with public accessors whose constructor is private to the file of the handler that owns it, so the
//! compiler checks who may write. The note's type names the scope it lives in.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::marker::PhantomData;

/// Marks notes about the connection.
#[derive(Debug)]
pub enum OfSession {}
/// Marks notes about the transaction.
#[derive(Debug)]
pub enum OfTransaction {}
/// Marks notes about one recipient.
#[derive(Debug)]
pub enum OfRecipient {}

/// Something a handler wrote down for others.
pub trait Note: Any + Send {
    /// [`OfSession`], [`OfTransaction`] or [`OfRecipient`].
    type Scope;
}

/// The notes of one scope, at most one of each type.
pub struct Notes<Scope> {
    map: HashMap<TypeId, Box<dyn Any + Send>>,
    scope: PhantomData<fn() -> Scope>,
}

impl<Scope> Notes<Scope> {
    /// No notes yet.
    pub fn new() -> Self {
        Notes {
            map: HashMap::new(),
            scope: PhantomData,
        }
    }

    /// The note of type `N`, if its handler has written it.
    pub fn get<N: Note<Scope = Scope>>(&self) -> Option<&N> {
        self.map.get(&TypeId::of::<N>()).and_then(|note| note.downcast_ref())
    }

    /// Writes a note, in place of an earlier one of the same type.
    pub fn put<N: Note<Scope = Scope>>(&mut self, note: N) {
        self.map.insert(TypeId::of::<N>(), Box::new(note));
    }

    /// How many notes there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

impl<Scope> Default for Notes<Scope> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Scope> std::fmt::Debug for Notes<Scope> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notes").field("len", &self.map.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Seen(u8);
    impl Note for Seen {
        type Scope = OfSession;
    }

    #[test]
    fn one_of_each_type() {
        let mut notes: Notes<OfSession> = Notes::new();
        assert!(notes.get::<Seen>().is_none());
        notes.put(Seen(1));
        notes.put(Seen(2));
        assert_eq!(notes.get::<Seen>(), Some(&Seen(2)));
        assert_eq!(notes.len(), 1);
    }
}
