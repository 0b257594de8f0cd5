//! What outlives a worker: its Link, its way to the logger and its doors to helpers, which the next worker takes over.
//!
//! Making these pairs, telling others of them and closing them again costs about as much as a short session. What
//! a worker leaves in them is taken out before another one gets them; where anything is odd they are closed. It must
//! never give the ends of one worker to another while the first one lives.
//!
//! A door is lent from the second worker on, after the first one has asked for one. Those that a worker asks for are
//! never lent again: it could have changed them, as it chooses their numbers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{Shutdown, shutdown};

use crate::ipc::channel::{Channel, Fault};
use crate::ipc::control::ToHelper;
use crate::ipc::link::{Doors, FromWorker, Role, ToWorker};
use crate::sys::socket;

use super::descriptors::raised_pair;
use super::helpers::Helper;

/// Slots kept for workers to come.
const SPARE: usize = 64;
/// Orders that a worker may have left unread.
const UNREAD: usize = 16;

/// A pair for a worker's voice. What is said is signed from the first word on, heard as late as may be: else it would be
/// taken for the first worker's.
fn voice() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = raised_pair()?;
    socket::tell_senders(&ours)?;
    Ok((ours, theirs))
}

/// The ends of one worker after the other.
#[derive(Debug)]
pub(super) struct Slot {
    /// By which events of its Link are told apart.
    pub(super) token: usize,
    /// Whether the master is told of what comes over the Link.
    pub(super) watched: bool,
    /// The master's end of the Link.
    pub(super) link: Channel<ToWorker, FromWorker>,
    /// The worker's ends; none where they are not for another one.
    theirs: Option<Theirs>,
    doors: Doors<Door>,
}

/// A worker's ends once more, by the lowest free numbers.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) link: OwnedFd,
    /// The way to the logger.
    pub(super) voice: OwnedFd,
    /// As far as there are any.
    pub(super) doors: Doors<Option<OwnedFd>>,
}

impl Lent {
    /// How many they are.
    pub(super) fn count(&self) -> usize {
        2 + self.doors.iter().flatten().count()
    }

    /// What of it has a number below `first`, where a worker looks for it: it can ask for doors, but not for the rest.
    ///
    /// # Errors
    /// Those descriptors are used up.
    pub(super) fn below(mut self, first: RawFd) -> io::Result<Lent> {
        let is_below = |end: &OwnedFd| end.as_raw_fd() < first;
        if !is_below(&self.link) || !is_below(&self.voice) {
            return Err(io::Error::other("the descriptors that a worker may have are used up"));
        }
        for door in self.doors.iter_mut() {
            door.take_if(|end| !is_below(end));
        }
        Ok(self)
    }
}

/// A door to a helper.
#[derive(Debug, Default)]
struct Door {
    /// A worker has asked for one: the next one will want one, too.
    is_wanted: bool,
    /// The worker's end, and which process of the helper it leads to.
    end: Option<(OwnedFd, u64)>,
}

impl Door {
    /// No process but `process` is to be reached from here; makes a door to that one if it is wanted. The helper's end.
    fn renew(&mut self, process: u64) -> io::Result<Option<OwnedFd>> {
        self.end.take_if(|(_, to)| *to != process);
        if !self.is_wanted || self.end.is_some() {
            return Ok(None);
        }
        let (ours, theirs) = raised_pair()?;
        self.end = Some((theirs, process));
        Ok(Some(ours))
    }

    /// Closes it where a worker that has ended left anything in it, or the helper.
    fn close_if_odd(&mut self) {
        let waits = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.end.take_if(|(end, _)| {
            socket::has_unread(&*end) || !socket::recv_frame_nowait(&*end, &mut [0]).is_err_and(waits)
        });
    }
}

/// The ends of a worker.
#[derive(Debug)]
struct Theirs {
    link: Channel<FromWorker, ToWorker>,
    /// The way to the logger.
    voice: OwnedFd,
}

impl Slot {
    fn new(token: usize) -> io::Result<(Slot, OwnedFd)> {
        let (link, theirs) = raised_pair()?;
        let (logger, voice) = voice()?;
        let slot = Slot {
            token,
            watched: false,
            link: Channel::new(link),
            theirs: Some(Theirs {
                link: Channel::new(theirs),
                voice,
            }),
            doors: Doors::default(),
        };
        Ok((slot, logger))
    }

    /// Copies of the worker's ends, of so many doors at most: it can ask for others.
    ///
    /// # Errors
    /// No descriptors.
    pub(super) fn lend(&self, mut doors: usize) -> io::Result<Lent> {
        let theirs = self.theirs.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let copy = |end: BorrowedFd<'_>| socket::duplicate_at_least(end, 0);
        Ok(Lent {
            link: copy(theirs.link.as_fd())?,
            voice: copy(theirs.voice.as_fd())?,
            doors: self.doors.try_map(|door| match &door.end {
                Some((end, _)) if doors > 0 => {
                    doors -= 1;
                    copy(end.as_fd()).map(Some)
                }
                _ => Ok(None),
            })?,
        })
    }

    /// Its worker, which has its ends, is the last one: where there are very many, each costs the master one descriptor
    /// and not six.
    pub(super) fn is_the_last_ones(&mut self) {
        self.theirs = None;
        self.close_doors();
    }

    /// Its worker asks for a door to this helper.
    pub(super) fn note_door(&mut self, helper: Role) {
        if let Some(door) = self.doors.of_mut(helper) {
            door.is_wanted = true;
        }
    }

    /// Another process of this helper answers from now on.
    pub(super) fn forget_door(&mut self, helper: Role) {
        if let Some(door) = self.doors.of_mut(helper) {
            door.end = None;
        }
    }

    /// Lets each door that is wanted lead to these processes; the helpers' ends of those that are new.
    fn renew_doors(&mut self, processes: Doors<u64>) -> io::Result<Doors<Option<OwnedFd>>> {
        Ok(Doors {
            delivery: self.doors.delivery.renew(processes.delivery)?,
            keeper: self.doors.keeper.renew(processes.keeper)?,
            broker: self.doors.broker.renew(processes.broker)?,
        })
    }

    /// Its worker waits no longer for what it asked there: what the helper says from now on fails on its side, though
    /// the worker has the door still, to see what was said before.
    pub(super) fn end_door(&mut self, helper: Role) {
        let door = self.doors.of_mut(helper);
        if let Some((end, _)) = door.and_then(|door| door.end.take()) {
            let _ = shutdown(end.as_raw_fd(), Shutdown::Read);
        }
    }

    /// Keeps none of the worker's ends open: when it has none either, the helpers see that it is gone.
    pub(super) fn close_doors(&mut self) {
        self.doors.iter_mut().for_each(|door| door.end = None);
    }

    /// The logger was started again: gives the worker another way to it.
    ///
    /// # Errors
    /// No descriptors.
    pub(super) fn give_voice(&mut self, logger: &Helper, door: &ToHelper) -> io::Result<()> {
        let (ours, theirs) = voice()?;
        if logger.tell(door, &[ours.as_fd()]) {
            let _ = self.link.send_nowait(&ToWorker::Voice, &[theirs.as_fd()]);
        }
        // A worker chooses the number of what it is passed, so that the sandbox does not keep that as it was.
        self.theirs = None;
        self.close_doors();
        Ok(())
    }

    /// Takes out what a worker that has ended left unread. False when there is more than any of ours leaves, or when
    /// the logger, which had no room for its end perhaps, would hear nothing of the next one.
    fn is_clean(&self) -> bool {
        let silent = matches!(self.link.receive_nowait(), Err(Fault::WouldBlock));
        let Some(theirs) = &self.theirs else { return false };
        let said = socket::recv_frame_nowait(&theirs.voice, &mut [0]);
        let is_heard = said.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        silent && is_heard && (0..UNREAD).any(|_| matches!(theirs.link.receive_nowait(), Err(Fault::WouldBlock)))
    }
}

/// The other ends of what is new in a slot.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Of the voice.
    pub(super) logger: Option<OwnedFd>,
    /// Of the doors.
    pub(super) doors: Doors<Option<OwnedFd>>,
}

/// The slots that nobody has.
#[derive(Debug, Default)]
pub(super) struct Slots {
    free: Vec<Slot>,
    /// Which process of each helper answers now; doors to earlier ones are closed.
    processes: Doors<u64>,
    /// Tokens of slots that were closed: as many are in use as there are slots.
    tokens: Vec<usize>,
    next: usize,
}

impl Slots {
    /// A slot, and the other ends of what is new in it.
    ///
    /// # Errors
    /// No descriptors.
    pub(super) fn take(&mut self) -> io::Result<(Slot, Others)> {
        if let Some(mut slot) = self.free.pop() {
            return match slot.renew_doors(self.processes) {
                Ok(doors) => Ok((slot, Others { logger: None, doors })),
                Err(error) => {
                    self.close(slot);
                    Err(error)
                }
            };
        }
        let (slot, logger) = Slot::new(self.tokens.last().copied().unwrap_or(self.next))?;
        if self.tokens.pop().is_none() {
            self.next += 1;
        }
        let others = Others {
            logger: Some(logger),
            doors: Doors::default(),
        };
        Ok((slot, others))
    }

    /// Takes back the slot of a worker that has ended as it should; its doors where those `are_whole`.
    pub(super) fn put_back(&mut self, mut slot: Slot, are_whole: bool) {
        if are_whole {
            slot.doors.iter_mut().for_each(Door::close_if_odd);
        } else {
            slot.close_doors();
        }
        if self.free.len() < SPARE && slot.is_clean() {
            self.free.push(slot);
        } else {
            self.close(slot);
        }
    }

    /// Closes a slot.
    pub(super) fn close(&mut self, slot: Slot) {
        self.tokens.push(slot.token);
    }

    /// Another process of this helper answers from now on: closes the doors to the one before that nobody has.
    pub(super) fn replace(&mut self, helper: Role) {
        if let Some(process) = self.processes.of_mut(helper) {
            *process += 1;
        }
        self.free.iter_mut().for_each(|slot| slot.forget_door(helper));
    }

    /// The logger was started again: closes all that nobody has.
    pub(super) fn clear(&mut self) {
        self.tokens.extend(self.free.drain(..).map(|slot| slot.token));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::descriptors::{LENT, STARTING, doors_to_lend};
    use crate::sys::{in_child, process, process::Ended};
    use nix::sys::resource::{Resource, setrlimit};

    const ORDER: ToWorker = ToWorker::Retire;

    #[test]
    fn a_slot_that_the_logger_does_not_hear_is_closed() {
        let mut slots = Slots::default();
        let (slot, others) = slots.take().unwrap();
        drop(others);
        slots.put_back(slot, true);
        assert!(slots.take().unwrap().1.logger.is_some(), "another one");
    }

    #[test]
    fn what_is_said_before_the_logger_hears_of_a_voice_is_signed() {
        let mut slots = Slots::default();
        let (slot, others) = slots.take().unwrap();
        socket::send_frame(slot.lend(3).unwrap().voice, b"x", &[]).unwrap();
        let (_, sender) = socket::recv_signed_frame(others.logger.unwrap(), &mut [0; 8]).unwrap();
        assert_eq!(sender, Some(std::process::id()), "or it would be the first one's");
    }

    #[test]
    fn what_one_worker_left_is_not_there_for_the_next() {
        let mut slots = Slots::default();
        let (slot, others) = slots.take().unwrap();
        assert!(others.logger.is_some());
        let (token, lent) = (slot.token, slot.lend(3).unwrap());
        let (pipe, _other) = io::pipe().unwrap();
        slot.link.send_nowait(&ORDER, &[pipe.as_fd()]).unwrap();
        slot.link.send_nowait(&ORDER, &[]).unwrap();
        drop(lent);
        slots.put_back(slot, true);
        let (slot, others) = slots.take().unwrap();
        assert!(others.logger.is_none());
        assert_eq!(slot.token, token);
        let link = slot.lend(3).unwrap().link;
        let worker: Channel<FromWorker, ToWorker> = Channel::new(link);
        assert!(matches!(worker.receive_nowait(), Err(Fault::WouldBlock)));
    }

    #[test]
    fn the_slot_of_the_last_one_is_closed() {
        let mut slots = Slots::default();
        let (mut slot, _others) = slots.take().unwrap();
        let link = slot.lend(3).unwrap().link;
        slot.is_the_last_ones();
        drop(link);
        assert!(matches!(slot.link.receive_nowait(), Err(Fault::Closed)));
        slots.put_back(slot, true);
        let (_, others) = slots.take().unwrap();
        assert!(others.logger.is_some(), "another one");
    }

    #[test]
    fn a_slot_with_words_unheard_is_closed() {
        let mut slots = Slots::default();
        let (slot, _others) = slots.take().unwrap();
        let link = slot.lend(3).unwrap().link;
        Channel::<FromWorker, ToWorker>::new(link)
            .send(&FromWorker::Done)
            .unwrap();
        slots.put_back(slot, true);
        let (_, others) = slots.take().unwrap();
        assert!(others.logger.is_some(), "another one");
    }

    #[test]
    fn a_slot_with_more_orders_than_any_is_closed() {
        let mut slots = Slots::default();
        let (slot, _others) = slots.take().unwrap();
        for _ in 0..=UNREAD {
            slot.link.send_nowait(&ORDER, &[]).unwrap();
        }
        let token = slot.token;
        slots.put_back(slot, true);
        let (slot, others) = slots.take().unwrap();
        assert!(others.logger.is_some());
        assert_eq!(slot.token, token);
        assert_ne!(slots.take().unwrap().0.token, token);
    }

    #[test]
    fn a_slot_without_the_ends_of_a_worker_is_closed() {
        let mut slots = Slots::default();
        let (mut slot, _others) = slots.take().unwrap();
        slot.is_the_last_ones();
        slots.put_back(slot, true);
        assert!(slots.take().unwrap().1.logger.is_some());
    }

    /// A slot with a door, the worker's copy of it, and the helper's end.
    fn with_door(slots: &mut Slots, helper: Role) -> (Slot, OwnedFd, OwnedFd, Others) {
        let (mut slot, first) = slots.take().unwrap();
        assert!(
            slot.lend(3).unwrap().doors.iter().all(Option::is_none),
            "nobody has asked yet"
        );
        slot.note_door(helper);
        slots.put_back(slot, true);
        let (slot, mut others) = slots.take().unwrap();
        let end = others.doors.of_mut(helper).unwrap().take().unwrap();
        assert!(others.doors.iter().all(Option::is_none), "none but this one");
        let lent = slot.lend(3).unwrap().doors.of_mut(helper).unwrap().take().unwrap();
        (slot, lent, end, first)
    }

    #[test]
    fn a_door_is_for_the_next_one_as_well() {
        for helper in Doors::<()>::ROLES {
            let mut slots = Slots::default();
            let (slot, lent, end, _logger) = with_door(&mut slots, helper);
            drop(lent);
            slots.put_back(slot, true);
            let (slot, others) = slots.take().unwrap();
            assert!(others.doors.iter().all(Option::is_none), "the same");
            socket::send_frame(&end, b"x", &[]).unwrap();
            let lent = slot.lend(3).unwrap().doors.of_mut(helper).unwrap().take().unwrap();
            assert_eq!(socket::recv_frame_nowait(&lent, &mut [0; 8]).unwrap().0, 1);
        }
    }

    #[test]
    fn nothing_is_answered_at_a_door_given_up_but_what_was_is_there() {
        let mut slots = Slots::default();
        let (mut slot, lent, end, _logger) = with_door(&mut slots, Role::Delivery);
        socket::send_frame(&end, b"in time", &[]).unwrap();
        slot.end_door(Role::Delivery);
        let late = socket::send_frame(&end, b"late", &[]).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(socket::recv_frame_nowait(&lent, &mut [0; 8]).unwrap().0, 7);
        assert_eq!(socket::recv_frame_nowait(&lent, &mut [0; 8]).unwrap().0, 0);
        slots.put_back(slot, true);
        assert!(slots.take().unwrap().1.doors.delivery.is_some(), "another one");
    }

    #[test]
    fn a_worker_can_do_without_doors_alone() {
        let lent = |link, voice, door| {
            let (end, _other) = io::pipe().unwrap();
            let numbered = |number| socket::duplicate_at_least(&end, number).unwrap();
            Lent {
                link: numbered(link),
                voice: numbered(voice),
                doors: Doors {
                    delivery: Some(numbered(0)),
                    keeper: Some(numbered(door)),
                    broker: None,
                },
            }
        };
        let few = lent(0, 0, 600).below(600).unwrap();
        assert!(few.doors.delivery.is_some() && few.doors.keeper.is_none());
        assert!(lent(0, 0, 0).below(600).unwrap().doors.keeper.is_some());
        assert!(lent(600, 0, 0).below(600).is_err());
        assert!(lent(0, 600, 0).below(600).is_err());
    }

    /// However many workers are on their way, the master can make what another one needs.
    #[test]
    fn what_is_lent_leaves_room_for_a_pair() {
        let ended = in_child(|| {
            let mut slots = Slots::default();
            let mut held = Vec::new();
            if process::close_from(3).is_err() {
                return 1;
            }
            while let Ok((slot, others)) = slots.take() {
                let lent = slot.lend(3).and_then(|lent| lent.below(LENT));
                let is_last = lent.is_err();
                held.push((slot, others, lent));
                if is_last {
                    break;
                }
            }
            let Ok((one, other)) = socket::seqpacket_pair() else {
                return 2;
            };
            let is_low = [&one, &other].iter().all(|end| end.as_raw_fd() < socket::FIRST_SHARED);
            i32::from(!is_low || held.len() < 10) * 3
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    /// The master has four low numbers of its own: as many workers as may be on their way find room, and most of them for
    /// all that they want.
    #[test]
    fn as_many_as_may_start_at_once_find_room() {
        let ended = in_child(|| {
            if process::close_from(4).is_err() {
                return 1;
            }
            let mut slots = Slots::default();
            let mut wanting = Vec::new();
            for _ in 0..STARTING {
                let Ok((mut slot, others)) = slots.take() else { return 2 };
                Doors::<()>::ROLES.into_iter().for_each(|helper| slot.note_door(helper));
                wanting.push((slot, others));
            }
            let mut held = Vec::new();
            for (slot, others) in wanting {
                slots.put_back(slot, true);
                held.push(others);
            }
            let (mut lent, mut sum) = (Vec::new(), 0);
            for starting in 0..STARTING {
                let Ok((slot, others)) = slots.take() else { return 3 };
                let Ok(ends) = slot
                    .lend(doors_to_lend(starting, sum))
                    .and_then(|lent| lent.below(LENT))
                else {
                    return 4;
                };
                let all = ends.doors.iter().all(Option::is_some);
                if all != (starting < 4) {
                    return 5;
                }
                sum += ends.count();
                lent.push((slot, others, ends));
            }
            0
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn a_slot_that_cannot_have_its_door_is_closed_and_not_lost() {
        let ended = in_child(|| {
            let mut slots = Slots::default();
            let Ok((mut slot, _others)) = slots.take() else {
                return 1;
            };
            let token = slot.token;
            slot.note_door(Role::Delivery);
            slots.put_back(slot, true);
            setrlimit(Resource::RLIMIT_NOFILE, 1, 1).unwrap();
            if slots.take().is_ok() {
                return 2;
            }
            i32::from(!slots.free.is_empty() || slots.tokens != [token]) * 3
        });
        assert_eq!(ended, Ended::Exited(0));
    }

    #[test]
    fn a_door_is_closed_when_it_is_odd_or_leads_nowhere() {
        type Spoil = fn(&mut Slots, &OwnedFd, &OwnedFd) -> bool;
        let spoils: [Spoil; 4] = [
            |_, _, _| false, // given up
            |_, lent, _| socket::send_frame(lent, b"unread", &[]).is_ok(),
            |_, _, end| socket::send_frame(end, b"unread", &[]).is_ok(),
            |slots, _, _| {
                Doors::<()>::ROLES.into_iter().for_each(|helper| slots.replace(helper));
                true
            },
        ];
        for (number, spoil) in spoils.iter().enumerate() {
            for helper in Doors::<()>::ROLES {
                let mut slots = Slots::default();
                let (slot, lent, end, _logger) = with_door(&mut slots, helper);
                let are_whole = spoil(&mut slots, &lent, &end);
                drop(lent);
                slots.put_back(slot, are_whole);
                let (_slot, mut others) = slots.take().unwrap();
                let is_new = others.doors.of_mut(helper).unwrap().is_some();
                assert!(others.logger.is_none() && is_new, "{number}");
                let heard = |_| socket::recv_frame_nowait(&end, &mut [0; 8]).unwrap().0;
                assert!([0, 1].map(heard).contains(&0), "{number}: closed");
            }
        }
    }
}
