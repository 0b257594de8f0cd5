//! A line of working processes that replace each other.

use std::sync::Arc;
use std::sync::mpsc::channel;

use super::*;
use crate::delivery::{self, Settings};
use crate::sys::in_child;

const PATIENCE: Duration = Duration::from_secs(10);

/// Says that it is ready; asks for a successor when told to. The first one is told to just when it is replaced.
fn work(seat: Seat) -> i32 {
    let number = u8::try_from(seat.memory.len()).unwrap_or(u8::MAX);
    if !seat.take_over(vec![0; usize::from(number) + 1]) || seat.control.send(&FromHelper::Ready).is_err() {
        return 1;
    }
    loop {
        match seat.hear(PATIENCE) {
            Ok(Heard::Master(ToHelper::Reload { .. }, _)) => seat.ask_to_be_replaced(),
            Ok(Heard::Leave) => {
                if seat.turn == Turn::First {
                    seat.ask_to_be_replaced();
                }
                return 0;
            }
            Err(Fault::Closed) => return 0,
            _ => {}
        }
    }
}

#[test]
fn a_reload_that_reached_one_who_is_leaving_is_not_lost() {
    let (ours, theirs) = socket::seqpacket_pair().unwrap();
    let ended = in_child(|| {
        let master = Channel::<ToHelper, FromHelper>::new(ours);
        let Ok(Fork::Parent(_)) = process::fork().inspect(|fork| {
            if *fork == Fork::Child {
                let kept = [2, std::os::fd::AsRawFd::as_raw_fd(&theirs)];
                let _ = process::close_range_except(&kept);
                keep(theirs.try_clone().unwrap(), &work)
            }
        }) else {
            return 1;
        };
        let ready = || matches!(master.receive_within(PATIENCE), Ok((FromHelper::Ready, _)));
        if !ready() || master.send(&ToHelper::Reload { level: 0 }).is_err() {
            return 2;
        }
        // the one that was asked for, and the one that the first asked for as it left
        i32::from(!(ready() && ready())) * 3
    });
    assert_eq!(ended, Ended::Exited(0));
}

#[test]
fn one_that_is_replaced_before_it_began_leaves() {
    let (control, _master) = socket::seqpacket_pair().unwrap();
    let (parent, ours) = socket::seqpacket_pair().unwrap();
    let parent_half = Channel::<ToWorking, FromWorking>::new(parent);
    parent_half.send(&ToWorking::Leave).unwrap();
    let state = tempfile::tempdir().unwrap();
    let (said, heard) = channel();
    let settings = Settings::new(state.path());
    std::thread::spawn(move || {
        let status = delivery::run(delivery::Place {
            seat: Seat::new(control, ours, Turn::Instead, Vec::new()),
            settings,
            log: Arc::new(|_, _| {}),
            rejoin: Box::new(drop),
        });
        said.send(status)
    });
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
}
