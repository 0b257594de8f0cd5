//! The door to the broker: one that the master has lent, if so, or else opened when it is first needed; and again when the
//! broker was restarted or replaced.

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
    /// The client's door is the one that the master has lent.
    is_lent: bool,
    has_given_up: bool,
}

impl Broker {
    /// Not asked yet; `link` gives a door once `lent` does not do.
    pub fn new(link: Rc<Link>, lent: Option<OwnedFd>) -> Broker {
        Broker {
            link,
            is_lent: lent.is_some(),
            client: lent.map(Client::new),
            has_given_up: false,
        }
    }

    /// Whether the lent door, if there is one, is as it was: nothing is left behind in it, as another worker may have it
    /// after us.
    pub fn has_kept_its_door(&self) -> bool {
        let is_whole = || self.client.as_ref().is_none_or(Client::is_whole);
        !self.has_given_up && (!self.is_lent || is_whole())
    }

    /// A session has ended: what it did not wait for is none of the next one's, and would count as asked by it.
    pub fn end_session(&mut self) {
        if self.client.take_if(|client| !client.is_whole()).is_some() {
            self.has_given_up |= std::mem::take(&mut self.is_lent);
        }
    }

    /// A connection that does not block.
    ///
    /// # Errors
    /// Why there is none, for the log.
    pub fn connect(&mut self, to: &Endpoint, patience: Duration) -> Result<OwnedFd, String> {
        let end = Instant::now() + patience;
        self.ask(|client| client.connect(to, end))
    }

    /// Asks, and once more through another door where the broker has left this one. That a lent one was left does not
    /// count: it may have been long before.
    fn ask<T>(&mut self, call: impl Fn(&Client) -> Result<T, Error>) -> Result<T, String> {
        let mut again = true;
        loop {
            let client = match self.client.take() {
                Some(client) => client,
                None => self.door()?,
            };
            let result = call(&client);
            if matches!(result, Ok(_) | Err(Error::Unreachable(_))) {
                self.client = Some(client);
                return result.map_err(|error| error.to_string());
            }
            let is_lent = std::mem::take(&mut self.is_lent);
            self.has_given_up |= is_lent;
            if !matches!(result, Err(Error::Channel(Fault::Closed))) || !(is_lent || again) {
                return result.map_err(|error| error.to_string());
            }
            again &= is_lent;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::broker::{FromBroker, ToBroker};
    use crate::ipc::channel::Channel;
    use crate::ipc::link::{FromWorker, ToWorker};
    use crate::ipc::numbered::Numbered;
    use crate::log::Level;
    use crate::logger;
    use crate::sys::socket;
    use std::os::fd::AsFd as _;

    type Theirs = Channel<Numbered<FromBroker>, Numbered<ToBroker>>;

    fn pair() -> (OwnedFd, Theirs) {
        let (ours, theirs) = socket::seqpacket_pair().unwrap();
        (ours, Channel::new(theirs))
    }

    /// What a worker learns that has `lent`, of a master whose doors lead to `next`, one after the other; whether the lent
    /// one is for another worker, and how many doors were asked for.
    fn learn(lent: Option<OwnedFd>, next: Vec<OwnedFd>) -> (Vec<Answer>, bool, usize) {
        let ((ours, master), (voice, _logger)) = (socket::seqpacket_pair().unwrap(), socket::seqpacket_pair().unwrap());
        let doors = std::thread::spawn(move || {
            let master: Channel<ToWorker, FromWorker> = Channel::new(master);
            let mut doors = 0;
            while let Ok((FromWorker::Open { helper: Role::Broker }, _)) = master.receive() {
                let door = next.get(doors);
                let beside: Vec<_> = door.iter().map(|door| door.as_fd()).collect();
                master.send_with(&ToWorker::Door, &beside).unwrap();
                doors += 1;
            }
            doors
        });
        let log = Rc::new(logger::client::Client::new(voice, Level::Info));
        let broker = Rc::new(RefCell::new(Broker::new(Rc::new(Link::new(ours, log)), lent)));
        let questions = [Question::A("one.example".into())];
        let answers = Rc::clone(&broker).resolve(&questions, &mut Duration::from_secs(10));
        let is_kept = broker.borrow().has_kept_its_door();
        drop(broker);
        (answers, is_kept, doors.join().unwrap())
    }

    /// A broker that answers so many questions at its end of a door.
    fn serve(theirs: Theirs, questions: usize) {
        std::thread::spawn(move || {
            for _ in 0..questions {
                let (asked, _) = theirs.receive().unwrap();
                let (number, words) = (asked.number, FromBroker::Answer(Answer::NoName));
                theirs.send(&Numbered { number, words }).unwrap();
            }
        });
    }

    #[test]
    fn a_lent_door_is_used_and_left_for_the_next_one() {
        let (lent, theirs) = pair();
        serve(theirs, 1);
        assert_eq!(learn(Some(lent), Vec::new()), (vec![Answer::NoName], true, 0));
    }

    #[test]
    fn where_the_lent_door_was_left_others_lead_to_the_broker() {
        for left_again in [false, true] {
            let (lent, _) = pair();
            let (own, theirs) = pair();
            serve(theirs, 1);
            let mut next = vec![own];
            if left_again {
                next.insert(0, pair().0);
            }
            let doors = next.len();
            assert_eq!(learn(Some(lent), next), (vec![Answer::NoName], false, doors));
        }
    }

    #[test]
    fn a_lent_door_with_an_answer_to_come_is_not_for_the_next_one() {
        let (lent, theirs) = pair();
        let broker = Rc::new(RefCell::new(Broker::new(unheard(), Some(lent))));
        let questions = [Question::A("late.example".into())];
        let answers = Rc::clone(&broker).resolve(&questions, &mut Duration::from_millis(10));
        assert_eq!(answers, [Answer::TimedOut]);
        assert!(!broker.borrow().has_kept_its_door());
        drop(theirs);
    }

    /// A Link on which nobody answers.
    fn unheard() -> Rc<Link> {
        let end = || socket::seqpacket_pair().unwrap().0;
        let log = Rc::new(logger::client::Client::new(end(), Level::Info));
        Rc::new(Link::new(end(), log))
    }
}
