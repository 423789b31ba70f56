//! What is under way on one worker, so that it can be ended when what allowed it is gone.
//!
//! Nothing here has a timer of its own: one sweep a second looks at expiry and idleness of everything, and each new
//! [`Snapshot`](crate::routes::Snapshot) has everything decided on again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::refusal::Withdrawn;

/// Tells a task that it must drain or end. Set by the worker, polled by the task.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    drain: Cell<bool>,
    rest: Cell<bool>,
    cut: RefCell<Option<Withdrawn>>,
    /// A request is polled from two sides: while its answer is awaited or sent, and while its body is read.
    wakers: [RefCell<Option<Waker>>; 2],
}

/// Which of the two sides polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Answer,
    Question,
}

/// What a task is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Take nothing new, finish what runs.
    Drain,
    /// Nothing has happened for a while: give memory back until something does.
    Rest,
    /// End now.
    Cut(Withdrawn),
}

impl Signal {
    /// Asks for a drain.
    pub(crate) fn drain(&self) {
        if !self.drain.replace(true) {
            self.wake();
        }
    }

    /// Asks to give memory back.
    pub(crate) fn rest(&self) {
        self.rest.set(true);
        self.wake();
    }

    /// Asks for the end. The first reason counts.
    pub(crate) fn cut(&self, reason: Withdrawn) {
        let mut cut = self.cut.borrow_mut();
        if cut.is_none() {
            *cut = Some(reason);
            drop(cut);
            self.wake();
        }
    }

    /// Whether a drain was asked for.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.get()
    }

    /// Why the task must end, if it must.
    pub(crate) fn cut_reason(&self) -> Option<Withdrawn> {
        self.cut.borrow().clone()
    }

    /// Ready when the task must end.
    pub(crate) fn poll_cut(&self, side: Side, context: &Context<'_>) -> Poll<Withdrawn> {
        if let Some(reason) = self.cut.borrow().as_ref() {
            return Poll::Ready(reason.clone());
        }
        self.remember(side, context);
        Poll::Pending
    }

    /// Waits until the task must end.
    pub(crate) async fn cut_asked(&self) -> Withdrawn {
        std::future::poll_fn(|context| self.poll_cut(Side::Answer, context)).await
    }

    /// Waits until the task is told something. `drained` says that it knows of the drain already.
    pub(crate) async fn told(&self, drained: bool) -> Told {
        std::future::poll_fn(|context| {
            if let Poll::Ready(reason) = self.poll_cut(Side::Answer, context) {
                return Poll::Ready(Told::Cut(reason));
            }
            if self.drain.get() && !drained {
                return Poll::Ready(Told::Drain);
            }
            if self.rest.take() { Poll::Ready(Told::Rest) } else { Poll::Pending }
        })
        .await
    }

    fn remember(&self, side: Side, context: &Context<'_>) {
        let [answer, question] = &self.wakers;
        let mut waker = match side {
            Side::Answer => answer.borrow_mut(),
            Side::Question => question.borrow_mut(),
        };
        match waker.as_mut() {
            Some(known) => known.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }

    fn wake(&self) {
        for waker in &self.wakers {
            if let Some(waker) = waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// A set of things under way, each of which leaves it by being dropped.
#[derive(Debug)]
pub(crate) struct Live<T>(RefCell<Slab<Rc<T>>>);

impl<T> Default for Live<T> {
    fn default() -> Self {
        Self(RefCell::new(Slab::new()))
    }
}

/// Membership in a [`Live`] set.
#[derive(Debug)]
pub(crate) struct Member<T> {
    set: Rc<Live<T>>,
    key: usize,
    thing: Rc<T>,
}

impl<T> Live<T> {
    /// Enters something.
    pub(crate) fn enter(set: &Rc<Self>, thing: Rc<T>) -> Member<T> {
        let key = set.0.borrow_mut().insert(Rc::clone(&thing));
        Member { set: Rc::clone(set), key, thing }
    }

    /// Everything that is under way now. A copy, so that what is told to end may leave at once.
    pub(crate) fn all(&self) -> Vec<Rc<T>> {
        self.0.borrow().iter().map(|(_, thing)| Rc::clone(thing)).collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().len()
    }
}

impl<T> std::ops::Deref for Member<T> {
    type Target = Rc<T>;

    fn deref(&self) -> &Self::Target {
        &self.thing
    }
}

impl<T> Drop for Member<T> {
    fn drop(&mut self) {
        self.set.0.borrow_mut().try_remove(self.key);
    }
}
