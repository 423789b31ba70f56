//! One request and the limits that hold for it.

use std::rc::Rc;
use std::sync::Arc;

use countersign_limits::concurrency::{Concurrency, Place};
use countersign_limits::counted::Counted;
use countersign_limits::fields::{self, Told};
use countersign_limits::quota::{Quota, Standing};
use countersign_limits::store::Ask;
use http::HeaderValue;

use super::definition::WhenAway;
use super::live::LiveLimit;
use super::who::Who;
use super::{Admission, LimitFields, LimitRefusal, Notice};
use crate::worker::Worker;

/// The limits that hold for one request, while it is counted.
pub(super) struct Counting {
    holding: Vec<Holding>,
    places: Vec<Place>,
    /// The first limit that refuses, or would if it did not only watch.
    hit: Option<Arc<str>>,
}

/// One limit that holds, and who is counted by it.
pub(super) struct Holding {
    pub(super) limit: Arc<LiveLimit>,
    counted: Counted,
    /// What is left, where that is known.
    pub(super) standing: Option<Standing>,
    /// This agent counts, and not the store.
    here: bool,
}

impl Counting {
    /// Finds out which limits hold.
    pub(super) fn of(limits: &[Arc<LiveLimit>], who: &Who<'_>) -> Self {
        let holding = limits.iter().filter_map(|limit| {
            let (counted, here) = (who.counted_by(&limit.definition)?, !limit.definition.is_shared);
            Some(Holding { limit: Arc::clone(limit), counted, standing: None, here })
        });
        Self { holding: holding.collect(), places: Vec::new(), hit: None }
    }

    /// Counts the request, or says by which limit it is too much; and what is to be told of it either way.
    pub(super) async fn admit(mut self, worker: &Rc<Worker>) -> (Result<Admission, LimitRefusal>, Notice) {
        let counted = self.count(worker).await;
        if let Err(refusal) = &counted {
            self.places.clear();
            self.hit = Some(Arc::clone(refusal.name()));
        }
        let notice = Notice { fields: self.fields(), hit: self.hit };
        (counted.map(|()| Admission { _places: self.places }), notice)
    }

    async fn count(&mut self, worker: &Rc<Worker>) -> Result<(), LimitRefusal> {
        self.look(worker.elapsed_nanoseconds(), |holding| !holding.is_shared())?;
        self.enter()?;
        self.ask_store(worker).await?;
        self.take(worker.elapsed_nanoseconds())
    }

    /// Looks at what this agent counts. Nothing is used yet.
    fn look(&mut self, now: u64, is_looked_at: impl Fn(&Holding) -> bool) -> Result<(), LimitRefusal> {
        for holding in self.holding.iter_mut().filter(|holding| is_looked_at(holding)) {
            let rates = holding.limit.rates.as_ref();
            holding.standing = rates.map(|rates| rates.look(&holding.counted, now));
        }
        self.refuse(|holding| is_looked_at(holding) && holding.standing.is_some_and(|standing| standing.remaining == 0))
    }

    /// Takes a place of each limit on what is under way.
    fn enter(&mut self) -> Result<(), LimitRefusal> {
        for holding in &self.holding {
            let definition = &holding.limit.definition;
            let Some(limit) = definition.concurrent else { continue };
            match Concurrency::enter(&holding.limit.concurrency, &holding.counted, limit) {
                Ok(place) => self.places.push(place),
                Err(under_way) => {
                    holding.limit.hit();
                    if definition.is_enforced {
                        return Err(LimitRefusal::Concurrent { name: Arc::clone(&definition.name), limit, under_way });
                    }
                    self.hit.get_or_insert_with(|| Arc::clone(&definition.name));
                }
            }
        }
        Ok(())
    }

    /// Uses one request of everything that is shared, or of nothing.
    async fn ask_store(&mut self, worker: &Rc<Worker>) -> Result<(), LimitRefusal> {
        let asks: Vec<Ask<'_>> = self.shared().filter_map(Holding::ask).collect();
        if asks.is_empty() {
            return Ok(());
        }
        let answers = worker.store_link().take(&asks).await;
        let Some(answers) = answers else { return self.without_store(worker) };
        let mut fits = Vec::with_capacity(answers.len());
        for (holding, answer) in self.holding.iter_mut().filter(|holding| holding.is_shared()).zip(answers) {
            holding.standing = Some(answer.standing);
            fits.push(answer.fits);
        }
        let mut fits = fits.into_iter();
        self.refuse(|holding| holding.is_shared() && !fits.next().unwrap_or(false))
    }

    /// What the config says about requests that cannot be counted together.
    fn without_store(&mut self, worker: &Rc<Worker>) -> Result<(), LimitRefusal> {
        self.shared().for_each(|holding| holding.limit.uncounted());
        match worker.store_link().when_away() {
            WhenAway::Local { .. } => {
                let now = worker.elapsed_nanoseconds();
                self.holding.iter_mut().filter(|holding| holding.is_shared()).for_each(|holding| holding.here = true);
                self.look(now, Holding::is_shared)
            }
            WhenAway::Refuse => {
                let refusing = self.shared().find(|holding| holding.limit.definition.is_enforced);
                refusing.map_or(Ok(()), |holding| {
                    Err(LimitRefusal::StoreAway { name: Arc::clone(&holding.limit.definition.name) })
                })
            }
        }
    }

    /// Uses one request of everything that this agent counts. It was there a moment ago; another worker may have been faster.
    fn take(&mut self, now: u64) -> Result<(), LimitRefusal> {
        let mut gone = Vec::with_capacity(self.holding.len());
        for holding in &mut self.holding {
            let rates = holding.limit.rates.as_ref().filter(|_| holding.here);
            let taken = rates.map(|rates| rates.take(&holding.counted, now));
            gone.push(matches!(taken, Some(Err(_))));
            if let Some(Ok(standing) | Err(standing)) = taken {
                holding.standing = Some(standing);
            }
        }
        // A limit that only watches was hit when it was looked at.
        let mut gone = gone.into_iter();
        self.refuse(|holding| gone.next().unwrap_or(false) && holding.limit.definition.is_enforced)
    }

    /// Refuses if one of these is enforced: for the one that takes longest to have something left.
    fn refuse(&mut self, mut is_used_up: impl FnMut(&Holding) -> bool) -> Result<(), LimitRefusal> {
        let mut refusing: Option<(&Arc<str>, Quota, Standing)> = None;
        for holding in &self.holding {
            let definition = &holding.limit.definition;
            let (true, Some(quota), Some(standing)) = (is_used_up(holding), definition.quota, holding.standing) else {
                continue;
            };
            holding.limit.hit();
            if !definition.is_enforced {
                self.hit.get_or_insert_with(|| Arc::clone(&definition.name));
            } else if refusing.is_none_or(|(_, _, other)| other.next < standing.next) {
                refusing = Some((&definition.name, quota, standing));
            }
        }
        match refusing {
            Some((name, quota, standing)) => {
                Err(LimitRefusal::Rate { name: Arc::clone(name), quota, next: standing.next })
            }
            None => Ok(()),
        }
    }

    fn shared(&self) -> impl Iterator<Item = &Holding> {
        self.holding.iter().filter(|holding| holding.is_shared())
    }

    /// What the caller is told. Limits that only watch are the operator's affair.
    fn fields(&self) -> Option<LimitFields> {
        let enforced = self.holding.iter().filter(|holding| holding.limit.definition.is_enforced);
        let (policy, left) = fields::fields(enforced.flat_map(Holding::told));
        if policy.is_empty() {
            return None;
        }
        // Names of the config have no character that a header value may not have.
        Some(LimitFields { policy: HeaderValue::from_str(&policy).ok()?, left: HeaderValue::from_str(&left).ok()? })
    }

    /// Looks at everything and uses nothing: what there is to tell a caller who asks. Limits that only watch are left out.
    pub(super) async fn told(mut self, worker: &Rc<Worker>) -> (Vec<Holding>, Option<LimitFields>) {
        self.holding.retain(|holding| holding.limit.definition.is_enforced);
        let now = worker.elapsed_nanoseconds();
        let asks: Vec<Ask<'_>> = self.shared().filter_map(Holding::ask).collect();
        let answers = if asks.is_empty() { None } else { worker.store_link().look(&asks).await };
        let mut answers = answers.unwrap_or_default().into_iter();
        for holding in &mut self.holding {
            let here = || Some(holding.limit.rates.as_ref()?.look(&holding.counted, now));
            holding.standing = match holding.is_shared() {
                true => answers.next().map(|answer| answer.standing).or_else(here),
                false => here(),
            };
        }
        let fields = self.fields();
        (self.holding, fields)
    }
}

impl Holding {
    fn is_shared(&self) -> bool {
        self.limit.definition.is_shared
    }

    fn ask(&self) -> Option<Ask<'_>> {
        let definition = &self.limit.definition;
        Some(Ask {
            name: &definition.name,
            counted: &self.counted,
            quota: definition.quota.as_ref()?,
            enforced: definition.is_enforced,
        })
    }

    /// How many are under way now.
    pub(super) fn under_way(&self) -> u32 {
        self.limit.concurrency.under_way(&self.counted)
    }

    fn told(&self) -> impl Iterator<Item = Told<'_>> {
        let definition = &self.limit.definition;
        let name = &*definition.name;
        let requests = definition.quota.as_ref().zip(self.standing);
        let requests = requests.map(|(quota, standing)| Told::Requests { name, quota, standing });
        let concurrent = definition.concurrent;
        let concurrent = concurrent.map(|limit| Told::Concurrent { name, limit, under_way: self.under_way() });
        requests.into_iter().chain(concurrent)
    }
}
