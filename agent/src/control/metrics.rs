//! Metrics in the text form of Prometheus. Labels are names of the config and fixed words; nothing that a peer sends
//! becomes one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::status::Status;
use crate::limit::live::LiveLimit;
use crate::policy::credential::CredentialKind;
use crate::record::counters::{BUCKETS, Counter, Histogram, Outcome, REASONS, RouteCounters};

/// The counters of every route, by direction and name, one for each worker.
pub(crate) type Counters = BTreeMap<(&'static str, Arc<str>), Vec<Arc<RouteCounters>>>;

/// Writes everything.
pub(crate) fn text(counters: &Counters, limits: &Arc<[Arc<LiveLimit>]>, status: &Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("countersign");
    registry.register_collector(Box::new(Scrape {
        counters: counters.clone(),
        limits: Arc::clone(limits),
        status: status.clone(),
    }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape {
    counters: Counters,
    limits: Arc<[Arc<LiveLimit>]>,
    status: Status,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.requests(&mut encoder)?;
        self.refusals(&mut encoder)?;
        self.authentications(&mut encoder)?;
        self.limit_counter(&mut encoder, "limit_hits", "Requests that a limit refused, or would have", |limit| {
            limit.hits()
        })?;
        let help = "Requests under a shared limit that the store did not count";
        self.limit_counter(&mut encoder, "limit_uncounted", help, |limit| limit.times_uncounted())?;
        self.route_counter(&mut encoder, "connections_opened", "Connections accepted", |route| {
            &route.connections_opened
        })?;
        self.route_counter(&mut encoder, "connections_closed", "Connections ended", |route| &route.connections_closed)?;
        self.route_counter(&mut encoder, "handshakes", "TLS handshakes done", |route| &route.handshakes)?;
        let help = "Credentials that a backend has refused, so that the other slot is used";
        self.route_counter(&mut encoder, "credential_rotations", help, |route| &route.rotations)?;
        self.route_counter(&mut encoder, "received_bytes", "Bytes from peers", |route| &route.received_bytes)?;
        self.route_counter(&mut encoder, "sent_bytes", "Bytes to peers", |route| &route.sent_bytes)?;
        let help = "From a request's head to who makes it, where a credential in the request tells";
        self.histogram(&mut encoder, "authentication_seconds", help, |route| &route.authentication)?;
        self.histogram(&mut encoder, "first_byte_seconds", "From a request's head to the answer's head", |route| {
            &route.first_byte
        })?;
        self.histogram(&mut encoder, "request_seconds", "From a request's head to the answer's last byte", |route| {
            &route.duration
        })?;
        self.gauges(&mut encoder)
    }
}

impl Scrape {
    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family =
            encoder.encode_descriptor("requests", "HTTP requests by how they ended", None, MetricType::Counter)?;
        for ((direction, route), workers) in &self.counters {
            for (index, outcome) in Outcome::ALL.iter().enumerate() {
                let total = sum(workers, |counters| counters.requests.get(index));
                let labels = [("direction", *direction), ("route", &**route), ("outcome", outcome.as_str())];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&total, None)?;
            }
        }
        Ok(())
    }

    fn refusals(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "refusals",
            "Connections and requests refused or cut, by reason",
            None,
            MetricType::Counter,
        )?;
        for ((direction, route), workers) in &self.counters {
            for (index, reason) in REASONS.iter().enumerate() {
                let total = sum(workers, |counters| counters.refusals.get(index));
                // A reason that has never been seen is left out: forty rows for each route would say nothing.
                if total == 0 {
                    continue;
                }
                let labels = [("direction", *direction), ("route", &**route), ("reason", *reason)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&total, None)?;
            }
        }
        Ok(())
    }

    fn authentications(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Requests by the credential that they show, and whether it was believed";
        let mut family = encoder.encode_descriptor("authentications", help, None, MetricType::Counter)?;
        let kinds = CredentialKind::ALL.map(Some).into_iter().chain([None]);
        for ((direction, route), workers) in &self.counters {
            for shown in kinds.clone() {
                let credential = shown.map_or("none", CredentialKind::as_str);
                let failures = sum(workers, |counters| Some(&counters.authentications.of(shown).failure));
                let successes = sum(workers, |counters| Some(&counters.authentications.of(shown).success));
                for (outcome, total) in [("failure", failures), ("success", successes)] {
                    // What a route does not accept would be rows that say nothing.
                    if total == 0 {
                        continue;
                    }
                    let labels = [
                        ("direction", *direction),
                        ("route", &**route),
                        ("credential", credential),
                        ("outcome", outcome),
                    ];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&total, None)?;
                }
            }
        }
        Ok(())
    }

    fn limit_counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        count: impl Fn(&LiveLimit) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for limit in self.limits.iter() {
            let mode = if limit.definition.is_enforced { "enforce" } else { "observe" };
            let labels = [("limit", &*limit.definition.name), ("mode", mode)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count(limit), None)?;
        }
        Ok(())
    }

    fn route_counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        counter: impl Fn(&RouteCounters) -> &Counter,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((direction, route), workers) in &self.counters {
            let total = sum(workers, |counters| Some(counter(counters)));
            let labels = [("direction", *direction), ("route", &**route)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&total, None)?;
        }
        Ok(())
    }

    fn histogram(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        histogram: impl Fn(&RouteCounters) -> &Histogram,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for ((direction, route), workers) in &self.counters {
            let (mut counts, mut seconds) = ([0; BUCKETS.len() + 1], 0.0);
            for counters in workers {
                let (more, time) = histogram(counters).read();
                counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
                seconds += time;
            }
            let ends = BUCKETS.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
            let labels = [("direction", *direction), ("route", &**route)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                seconds,
                counts.iter().sum(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = &self.status;
        let storage = status.ca.as_ref().is_none_or(|ca| ca.storage_error.is_none());
        let single = [
            ("ready", "Every route serves and audit lines flow", u64::from(status.ready)),
            ("config_valid", "The newest config is in use", u64::from(status.config_error.is_none())),
            ("audit_failing", "Audit lines cannot be written", u64::from(status.audit_failing)),
            ("state_storable", "Renewed identities can be stored", u64::from(storage)),
            ("generation", "Changes taken up", status.generation),
            ("connections", "Connections under way", u64::try_from(status.connections).unwrap_or(u64::MAX)),
        ];
        for (name, help, value) in single {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        self.audit_sinks(encoder)?;
        let help = "A source of credentials for backends gave nothing when it was asked last";
        let mut family = encoder.encode_descriptor("credential_source_failing", help, None, MetricType::Gauge)?;
        for source in &status.sources {
            let labels = [("source", source.name.as_str())];
            family.encode_family(&labels)?.encode_gauge(&u64::from(source.error.is_some()))?;
        }
        let mut family = encoder.encode_descriptor(
            "identity_seconds_left",
            "Until an own certificate ends",
            None,
            MetricType::Gauge,
        )?;
        for identity in &status.identities {
            let labels = [("identity", identity.identity.as_str())];
            family.encode_family(&labels)?.encode_gauge(&identity.seconds_left.unwrap_or(0))?;
        }
        Ok(())
    }
}

impl Scrape {
    fn audit_sinks(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sinks = &self.status.audit_sinks;
        let help = "Audit lines cannot be delivered to an additional sink";
        let mut family = encoder.encode_descriptor("audit_sink_failing", help, None, MetricType::Gauge)?;
        for sink in sinks {
            family.encode_family(&[("sink", sink.name.as_str())])?.encode_gauge(&u64::from(sink.failing))?;
        }
        let help = "Audit lines that an additional sink did not get";
        let mut family = encoder.encode_descriptor("audit_sink_dropped_lines", help, None, MetricType::Counter)?;
        for sink in sinks {
            let labels = [("sink", sink.name.as_str())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&sink.dropped, None)?;
        }
        Ok(())
    }
}

fn sum<'counters>(
    workers: &'counters [Arc<RouteCounters>],
    counter: impl Fn(&'counters RouteCounters) -> Option<&'counters Counter>,
) -> u64 {
    workers.iter().filter_map(|counters| counter(counters)).map(Counter::get).sum()
}
