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

type Map = HashMap<TypeId, Box<dyn Any + Send>>;

/// The notes of one scope, at most one of each type.
pub struct Notes<Scope> {
    map: Map,
    /// Those that [`Notes::forget`] leaves, unless `map` has a later one of the type.
    kept: Map,
    scope: PhantomData<fn() -> Scope>,
}

impl<Scope> Notes<Scope> {
    /// No notes yet.
    pub fn new() -> Self {
        Notes {
            map: Map::new(),
            kept: Map::new(),
            scope: PhantomData,
        }
    }

    /// The note of type `N`, if its handler has written it.
    pub fn get<N: Note<Scope = Scope>>(&self) -> Option<&N> {
        let id = TypeId::of::<N>();
        let note = self.map.get(&id).or_else(|| self.kept.get(&id));
        note.and_then(|note| note.downcast_ref())
    }

    /// Writes a note, in place of an earlier one of the same type.
    pub fn put<N: Note<Scope = Scope>>(&mut self, note: N) {
        self.map.insert(TypeId::of::<N>(), Box::new(note));
    }

    /// What was written so far is to stay.
    pub(super) fn keep(&mut self) {
        self.kept.extend(self.map.drain());
    }

    /// Forgets what was written since.
    pub(super) fn forget(&mut self) {
        self.map.clear();
    }

    /// How many notes there are.
    pub fn len(&self) -> usize {
        let later = self.map.keys().filter(|id| !self.kept.contains_key(id)).count();
        self.kept.len() + later
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<Scope> Default for Notes<Scope> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Scope> std::fmt::Debug for Notes<Scope> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notes").field("len", &self.len()).finish()
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

    #[test]
    fn what_is_kept_outlives_what_came_later() {
        let mut notes: Notes<OfSession> = Notes::new();
        notes.put(Seen(1));
        notes.keep();
        assert_eq!(notes.get::<Seen>(), Some(&Seen(1)));
        notes.put(Seen(2));
        assert_eq!((notes.get::<Seen>(), notes.len()), (Some(&Seen(2)), 1));
        notes.forget();
        assert_eq!(notes.get::<Seen>(), Some(&Seen(1)));
    }
}
