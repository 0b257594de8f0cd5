//! What a handler is; what it may say is in [`super::opinion`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::context::Context;
use super::directory::Directory;
use super::error::HandlerError;
use super::opinion::Outcome;
use super::outcome::{Message, Refusal, Taken};
use super::ports::Records;
use super::settings::Settings;
use crate::config::Place;
use crate::ipc::broker::Endpoint;
use crate::session::Verdict;
use crate::smtp::receiver::Piece;
use crate::smtp::reply::Reply;

/// Fixed facts about a handler, for the registry, the manual and `rsmtpd chain`.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Its name in YAML, also the name of its file.
    pub id: &'static str,
    /// The original's module for it, accepted in its place; the id where there was none.
    pub module: &'static str,
    /// The original's class for it, or what would be; a name of its file.
    pub class: &'static str,
    /// Chains it makes sense in; empty means every command's and `__DEFAULT__`, [`Facts::ANYWHERE`] all there are.
    pub verbs: &'static [&'static str],
    /// Verdicts it may give.
    pub decides: &'static [Verdict],
    /// Whether it refuses at once, whatever it sees: behind it nothing is left to decide.
    pub always_refuses: bool,
    /// Whether it takes messages over; exactly one such entry ends `__DATA__`. One that makes sense in every chain takes
    /// commands as well: it relays them to another server, whose replies are the answers.
    pub taker: bool,
    /// One line for people.
    pub about: &'static str,
}

impl Facts {
    /// For [`Facts::verbs`]: no chain where it would not make sense.
    pub const ANYWHERE: &'static [&'static str] = &["*"];

    /// Whether it only looks on: such a one may stand behind the handler that takes the message, though it runs before.
    pub fn decides_nothing(&self) -> bool {
        self.decides == [Verdict::None]
    }

    /// Whether it relays all of a session to another server.
    pub fn relays(&self) -> bool {
        self.taker && self.verbs == Facts::ANYWHERE
    }
}

/// What is passed on to the other server of a relaying handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// That a client has come; the answer is the greeting.
    Client,
    /// The command under way; for the first BDAT of a message that its text comes.
    Command,
    /// The end of the message, whose octets went there before.
    End,
}

/// What a handler wants to reach beyond this host; the broker connects and asks for nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Servers.
    pub endpoints: Vec<Endpoint>,
    /// The DNS.
    pub names: bool,
    /// Files beside the configuration that are read with it: no way out, and no broker's.
    pub files: Vec<PathBuf>,
}

impl Reach {
    /// Whether it is nothing that the broker makes.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && !self.names
    }

    /// Adds what another one is.
    pub fn add(&mut self, other: Reach) {
        self.names |= other.names;
        self.files.extend(other.files);
        for endpoint in other.endpoints {
            if !self.endpoints.contains(&endpoint) {
                self.endpoints.push(endpoint);
            }
        }
    }
}

/// A handler that does nothing, by its settings.
#[derive(Debug, Clone, Copy)]
pub struct InVain<'a> {
    /// What it does not do, and what would change that.
    pub what: &'static str,
    /// The setting; none where it is the default.
    pub at: Option<&'a Place>,
}

/// Looks at one step of a session and says what it thinks. It never writes to the client and reaches the outside only
/// through [`Context`].
pub trait Handler: Send + Sync {
    /// Judges the exchange; in `__DATA__` called when the whole message is there, unless [`Handler::body`] gave a reader.
    ///
    /// # Errors
    /// It cannot work; the entry's `on_error` counts.
    fn handle(&self, context: &mut Context<'_>) -> Result<Outcome, HandlerError>;

    /// `__DATA__` only, at the beginning of a body: a reader that sees every octet.
    fn body(&self, context: &mut Context<'_>) -> Option<Box<dyn BodyReader>> {
        let _ = context;
        None
    }

    /// Takers only: takes the message over for good, or says what the client is told instead.
    ///
    /// # Errors
    /// What the client is told; nothing was kept for its real recipients.
    fn take(&self, context: &mut Context<'_>, message: Message) -> Result<Taken, Refusal> {
        let _ = (context, message);
        Err(Refusal::failed("takes no messages"))
    }

    /// Relaying takers only: passes on to the other server what nobody before it had anything against, and gives the
    /// reply.
    ///
    /// # Errors
    /// The other server is lost: the client is told 421.
    fn pass_on(&self, context: &mut Context<'_>, what: Passing) -> Result<Reply, HandlerError> {
        let _ = (context, what);
        Err(HandlerError::Failed("relays nothing".into()))
    }

    /// What it wants to reach beyond this host.
    fn reach(&self) -> Reach {
        Reach::default()
    }

    /// Told the final reply of an exchange whose list it stands in, of the greeting, and of a message or a chunk of it. Who
    /// writes records is told of the end of the connection as well, once, with the reason in the context.
    fn concluded(&self, context: &mut Context<'_>, reply: Option<&Reply>) {
        let _ = (context, reply);
    }

    /// Who writes records is told, once, that a TLS handshake is done, or has failed: the session says which.
    fn shaken(&self, context: &mut Context<'_>) {
        let _ = context;
    }

    /// Whether it may ask for [`super::Effect::SaveCopy`]: where a message only passes, it must be kept while it does.
    fn saves_copies(&self) -> bool {
        false
    }

    /// Why it does nothing wherever it stands, and where its settings say so; none for one that works.
    fn in_vain(&self) -> Option<InVain<'_>> {
        None
    }

    /// The directory of the records that it writes: it is opened at the start.
    fn records(&self) -> Option<&Path> {
        None
    }
}

/// One kind of handler: what the registry must know to make it.
pub trait Kind: Handler + Sized + 'static {
    /// What its YAML file and `with` say.
    type Settings: Settings;
    /// Who it is.
    const FACTS: &'static Facts;

    /// Makes one; `directory` knows who exists.
    fn new(settings: Self::Settings, directory: &Arc<dyn Directory>) -> Self;
}

/// Sees a body pass by.
pub trait BodyReader: Send {
    /// The next piece.
    fn chunk(&mut self, piece: Piece<'_>, records: &mut dyn Records);

    /// The end, in chain order.
    ///
    /// # Errors
    /// As [`Handler::handle`].
    fn end(self: Box<Self>, context: &mut Context<'_>) -> Result<Outcome, HandlerError>;
}
