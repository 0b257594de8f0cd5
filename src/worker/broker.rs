//! The door to the broker, opened when it is first needed, and again when the broker was restarted or replaced.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::broker::client::{Client, Error};
use crate::chain::ResolverPort;
use crate::ipc::broker::{Answer, Endpoint, Question};
use crate::ipc::channel::Fault;
use crate::ipc::link::Role;

use super::link::Link;

/// The broker, as this worker reaches it.
pub struct Broker {
    link: Rc<Link>,
    client: Option<Client>,
}

impl Broker {
    /// Not asked yet; `link` gives the door.
    pub fn new(link: Rc<Link>) -> Broker {
        Broker { link, client: None }
    }

    /// A connection that does not block.
    ///
    /// # Errors
    /// Why there is none, for the log.
    pub fn connect(&mut self, to: &Endpoint, patience: Duration) -> Result<OwnedFd, String> {
        let end = Instant::now() + patience;
        self.ask(|client| client.connect(to, end))
    }

    /// Asks, and once more through another door where the broker has left this one.
    fn ask<T>(&mut self, call: impl Fn(&Client) -> Result<T, Error>) -> Result<T, String> {
        let mut again = true;
        loop {
            let client = match self.client.take() {
                Some(client) => client,
                None => self.door()?,
            };
            match call(&client) {
                Err(Error::Channel(Fault::Closed)) if again => again = false,
                result => {
                    if matches!(result, Ok(_) | Err(Error::Unreachable(_))) {
                        self.client = Some(client);
                    }
                    return result.map_err(|error| error.to_string());
                }
            }
        }
    }

    fn door(&self) -> Result<Client, String> {
        let door = self.link.open(Role::Broker);
        let door = door.map_err(|error| format!("no way to the broker: {error}"))?;
        Ok(Client::new(door))
    }
}

impl ResolverPort for Rc<RefCell<Broker>> {
    fn resolve(&mut self, questions: &[Question], patience: &mut Duration) -> Vec<Answer> {
        let end = Instant::now() + *patience;
        let asked = self.borrow_mut().ask(|client| client.resolve(questions, end));
        *patience = end.saturating_duration_since(Instant::now());
        asked.unwrap_or_else(|reason| vec![Answer::Failed(reason); questions.len()])
    }
}
