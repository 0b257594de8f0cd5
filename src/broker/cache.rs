//! Answers that still hold, up to a number of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ipc::broker::{Answer, Question};

/// Answers that are kept.
const MOST: usize = 4096;

/// What was answered before.
#[derive(Debug, Default)]
pub(super) struct Cache {
    answers: HashMap<Question, (Answer, Instant)>,
}

impl Cache {
    /// The answer, if it still holds.
    pub(super) fn get(&self, question: &Question, now: Instant) -> Option<&Answer> {
        let (answer, until) = self.answers.get(question)?;
        (*until > now).then_some(answer)
    }

    /// Keeps an answer for so many seconds.
    pub(super) fn put(&mut self, question: Question, answer: Answer, seconds: u32, now: Instant) {
        if seconds == 0 {
            return;
        }
        if self.answers.len() >= MOST && !self.answers.contains_key(&question) {
            self.answers.retain(|_, (_, until)| *until > now);
        }
        if self.answers.len() >= MOST {
            // Whatever comes first: hashes are seeded, so that nobody chooses.
            let some: Vec<Question> = self.answers.keys().take(MOST / 8).cloned().collect();
            for question in some {
                self.answers.remove(&question);
            }
        }
        let until = now + Duration::from_secs(seconds.into());
        self.answers.insert(question, (answer, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_for_their_time_and_are_bounded() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let question = |n: usize| Question::A(format!("{n}.example"));
        cache.put(question(0), Answer::NoName, 10, now);
        cache.put(question(1), Answer::NoName, 0, now);
        assert_eq!(
            cache.get(&question(0), now + Duration::from_secs(9)),
            Some(&Answer::NoName)
        );
        assert_eq!(cache.get(&question(0), now + Duration::from_secs(10)), None);
        assert_eq!(cache.get(&question(1), now), None);
        for n in 0..3 * MOST {
            cache.put(question(n), Answer::NoData, 10, now);
            assert!(cache.answers.len() <= MOST);
            assert!(cache.get(&question(n), now).is_some());
        }
    }
}
