//! Threads for what a client can make last for ever: what it sends may be a file of its own file system, or a socket
//! that lingers.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Barrier, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Threads that do jobs for users: of one user's, one at a time.
#[derive(Clone)]
pub struct Helpers(Arc<Shared>);

/// A descriptor that a user has a hand in. Dropped, it is closed by a helper.
#[derive(Debug)]
pub struct Foreign {
    descriptor: Option<OwnedFd>,
    uid: u32,
    helpers: Helpers,
}

impl Helpers {
    pub const COUNT: usize = 16;

    /// Starts them, and waits until they run: to start takes system calls that are forbidden later.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start() -> io::Result<Self> {
        let helpers = Self(Arc::default());
        let running = Arc::new(Barrier::new(Self::COUNT + 1));
        for _ in 0..Self::COUNT {
            let (helpers, running) = (helpers.clone(), running.clone());
            thread::Builder::new().name("helper".to_owned()).stack_size(STACK).spawn(move || {
                running.wait();
                helpers.work();
            })?;
        }
        running.wait();
        Ok(helpers)
    }

    /// Has it done, when what was to be done for this user before is done.
    pub fn run(&self, uid: u32, job: impl FnOnce() + Send + 'static) {
        self.0.lock().add(uid, Box::new(job));
        self.0.added.notify_one();
    }

    /// The descriptor as one that this user has a hand in.
    pub fn keep(&self, uid: u32, descriptor: OwnedFd) -> Foreign {
        Foreign { descriptor: Some(descriptor), uid, helpers: self.clone() }
    }

    /// Whether so much waits for this user that nothing should be added.
    pub fn is_full(&self, uid: u32) -> bool {
        self.0.lock().users.get(&uid).is_some_and(|jobs| jobs.len() >= MOST)
    }

    /// How many jobs wait, of all users. None holds more than one descriptor.
    pub fn waiting(&self) -> usize {
        self.0.lock().users.values().map(VecDeque::len).sum()
    }

    fn work(&self) -> ! {
        loop {
            let (uid, job) = self.0.next();
            job();
            self.0.lock().done(uid);
        }
    }
}

impl Foreign {
    /// Another descriptor of the same user.
    pub fn another(&self, descriptor: OwnedFd) -> Self {
        self.helpers.keep(self.uid, descriptor)
    }

    /// Closes it here, where that cannot wait. It is of no use then.
    pub fn close(&mut self) {
        self.descriptor = None;
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_ref().expect("what is closed is not used").as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let Some(descriptor) = self.descriptor.take() {
            self.helpers.run(self.uid, || drop(descriptor));
        }
    }
}

impl Debug for Helpers {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        f.debug_struct("Helpers").finish_non_exhaustive()
    }
}

/// Jobs of a user that wait.
const MOST: usize = 64;
/// Bytes of a helper's stack.
const STACK: usize = 128 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    added: Condvar,
}

#[derive(Default)]
struct Jobs {
    /// What waits, of each user for whom something waits or is being done.
    users: BTreeMap<u32, VecDeque<Job>>,
    /// For whom something waits and nothing is being done.
    ready: VecDeque<u32>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something that can be done.
    fn next(&self) -> (u32, Job) {
        let mut jobs = self.lock();
        loop {
            match jobs.next() {
                Some(next) => return next,
                None => jobs = self.added.wait(jobs).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Jobs {
    fn add(&mut self, uid: u32, job: Job) {
        let jobs = self.users.entry(uid).or_insert_with(|| {
            self.ready.push_back(uid);
            VecDeque::new()
        });
        jobs.push_back(job);
    }

    fn next(&mut self) -> Option<(u32, Job)> {
        let uid = self.ready.pop_front()?;
        let job = self.users.get_mut(&uid)?.pop_front()?;
        Some((uid, job))
    }

    fn done(&mut self, uid: u32) {
        if self.users.get(&uid).is_some_and(|jobs| !jobs.is_empty()) {
            self.ready.push_back(uid);
        } else {
            self.users.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::super::testing::hold;
    use super::*;

    #[test]
    fn a_job_that_does_not_end_holds_up_its_own_user_alone() {
        let helpers = Helpers::start().unwrap();
        let release = hold(&helpers, 1);
        let (tell, told) = mpsc::channel();
        let job = |name| {
            let tell = tell.clone();
            move || tell.send(name).unwrap()
        };
        helpers.run(1, job("first"));
        helpers.run(1, job("second"));
        for _ in 0..2 * Helpers::COUNT {
            helpers.run(2, job("another user's"));
            assert_eq!(told.recv(), Ok("another user's"));
        }
        assert_eq!(helpers.waiting(), 2);
        drop(release);
        assert_eq!((told.recv(), told.recv()), (Ok("first"), Ok("second")));
    }

    #[test]
    fn a_user_for_whom_enough_waits_is_told_from_others() {
        let helpers = Helpers::start().unwrap();
        let release = hold(&helpers, 1);
        for _ in 0..MOST {
            assert!(!helpers.is_full(1));
            helpers.run(1, || {});
        }
        assert!(helpers.is_full(1) && !helpers.is_full(2));
        assert_eq!(helpers.waiting(), MOST);
        drop(release);
    }

    #[test]
    fn what_is_foreign_is_closed_when_it_is_its_users_turn() {
        let helpers = Helpers::start().unwrap();
        let release = hold(&helpers, 1);
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
        drop(helpers.keep(1, writer.into()));
        assert_eq!(reader.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        fcntl_setfl(&reader, OFlags::empty()).unwrap();
        drop(release);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
