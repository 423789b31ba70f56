//! What the agent says of itself: routes, identities, the CA, and whether it is ready.

use std::sync::Arc;

use countersign_certs::san::San;

use super::Agent;
use crate::control::status::{AuditSinkStatus, CaStatus, IdentityStatus, KeysStatus, RouteStatus, Status};
use crate::direction::Direction;
use crate::identity::keeper::Keeper;
use crate::routes::{Entrance, Phase, Snapshot};

impl Agent {
    /// The state at this moment.
    pub(crate) fn status(&self) -> Status {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let waiting = self.waiting.borrow();
        let ca = self.keeper.as_ref().map(|keeper| ca_status(keeper));
        let trust_lost = ca.as_ref().is_some_and(|ca| ca.trust_lost);
        let audit_failing = self.sink.is_failing();
        let now = self.clock.now();
        let alive = snapshot.routes.values().all(|open| now <= open.route.identity().usable().not_after);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: waiting.is_empty() && alive && snapshot.phase == Phase::Serving && !audit_failing && !trust_lost,
            draining: snapshot.phase != Phase::Serving,
            connections: self.places.taken(),
            generation: snapshot.generation,
            config_error: self.config_error.borrow().clone(),
            audit_failing,
            audit_sinks: self.sink.extras().iter().map(|queue| AuditSinkStatus::of(queue)).collect(),
            ca,
            routes: self.route_status(&snapshot),
            identities: self.identity_status(&snapshot),
            sources: self.taken().sources.states(),
        }
    }

    /// The API keys that count, and when each was used last.
    pub(crate) fn keys_status(&self) -> KeysStatus {
        let file = self.taken().config.accepted.api_keys.as_ref().map(|keys| keys.file.clone());
        KeysStatus { config: std::path::absolute(&self.path).ok(), file, last_used: self.key_usage.all() }
    }

    fn route_status(&self, snapshot: &Snapshot) -> Vec<RouteStatus> {
        let taken = self.taken();
        let waiting = self.waiting.borrow();
        let status = |direction: Direction, name: &Arc<str>, identity: &San, entrance: &Entrance| {
            let open = snapshot.routes.get(entrance);
            let waits = waiting.iter().find(|waits| (waits.direction, &waits.route) == (direction, name));
            RouteStatus {
                direction: direction.as_str().to_owned(),
                name: name.to_string(),
                identity: identity.to_string(),
                listening: open.and_then(|open| Some(entrance.as_reached(&*open.listener.upgrade()?))),
                waiting_for: waits.map(|waits| waits.cause.to_string()),
            }
        };
        let (inbounds, outbounds) = (&taken.config.inbounds, &taken.config.outbounds);
        let inbounds =
            inbounds.iter().map(|of| status(Direction::Inbound, &of.name, &of.identity, &Entrance::of_inbound(of)));
        let outbounds =
            outbounds.iter().map(|of| status(Direction::Outbound, &of.name, &of.identity, &Entrance::of_outbound(of)));
        inbounds.chain(outbounds).collect()
    }

    fn identity_status(&self, snapshot: &Snapshot) -> Vec<IdentityStatus> {
        let now = self.clock.now();
        let mut known = self.credentials().svids;
        for open in snapshot.routes.values() {
            let svid = open.route.identity();
            if let Some(name) = svid.leaf().principal() {
                known.entry(name.clone()).or_insert_with(|| Arc::clone(svid));
            }
        }
        let plans = self.keeper.as_ref().map(|keeper| keeper.plans()).unwrap_or_default();
        let unissued = plans.iter().filter(|(id, _)| !known.contains_key(&San::Spiffe((*id).clone())));
        let unissued = unissued.map(|(id, plan)| IdentityStatus {
            identity: id.to_string(),
            serial: None,
            not_after: None,
            seconds_left: None,
            renewal_due: Some(plan.due.to_string()),
            renewal_error: plan.last_error.clone(),
        });
        let issued = known.iter().map(|(name, svid)| {
            let plan = svid.leaf().spiffe_id().and_then(|id| plans.get(id));
            let not_after = svid.usable().not_after;
            IdentityStatus {
                identity: name.to_string(),
                serial: Some(svid.leaf().serial().to_string()),
                not_after: Some(not_after.to_string()),
                seconds_left: Some(not_after.since(now).as_secs()),
                renewal_due: plan.map(|plan| plan.due.to_string()),
                renewal_error: plan.and_then(|plan| plan.last_error.clone()),
            }
        });
        issued.chain(unissued).collect()
    }
}

fn ca_status(keeper: &Keeper) -> CaStatus {
    let enrollment = keeper.enrollment();
    let trust = keeper.credentials().borrow().trust.clone();
    CaStatus {
        address: enrollment.ca_address.clone(),
        trust_domain: enrollment.trust_domain.to_string(),
        host_id: enrollment.host_id.to_string(),
        trust_lost: trust.is_none(),
        trust_generation: trust.as_ref().map(|update| update.generation),
        revoked: trust.map_or(0, |update| update.revocations.ids.len() + update.revocations.serials.len()),
        storage_error: keeper.unstored(),
    }
}
