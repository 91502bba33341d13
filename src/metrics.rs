//! Every metric family: name, help, labels and buckets, in one place.
//!
//! Owns the registry. Units are base units. Label values come from the configuration or from
//! closed sets of words, never from a request; `none` stands for "no backend". What is a state
//! (verdicts, who is active) is not kept here: `admin` sets those gauges from their owners when
//! it is scraped, so that they cannot disagree.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{
    Counter, CounterVec, Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Up to the ten minutes that an inference may take before its head.
const REQUEST_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
const POSITION_BUCKETS: &[f64] = &[
    0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0,
];
const CONNECT_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0,
];

/// Up to the ten minutes that a model may take to load before its first token.
const FIRST_TOKEN_BUCKETS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 600.0,
];
/// Those of OpenTelemetry.
const TOKEN_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];

/// So many models have a label of their own.
pub const MODELS: usize = 20;
/// The label of all the others.
pub const OTHER: &str = "other";

/// The content type of [`Metrics::text`].
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

macro_rules! families {
    ($(#[$doc:meta])* $name:ident {
        $($field:ident: $type:ident($family:literal, $help:literal $(, $labels:expr)? $(; $buckets:expr)?),)*
    }) => {
        $(#[$doc])*
        pub struct $name {
            registry: Registry,
            /// The models that have a label of their own.
            pub models: ModelNames,
            $(#[doc = $help] pub $field: $type,)*
        }

        impl $name {
            /// The name of every family.
            pub const FAMILIES: &'static [&'static str] = &[$($family),*];

            /// All families, registered once.
            ///
            /// # Panics
            /// Never: the names and labels are constants that the tests register.
            pub fn new() -> Self {
                let registry = Registry::new();
                $(
                    let $field = families!(@make $type, $family, $help $(, $labels)? $(; $buckets)?);
                    registry.register(Box::new($field.clone())).expect("a family's name is used once");
                )*
                Self { registry, models: ModelNames::default(), $($field,)* }
            }
        }
    };
    (@make $type:ident, $family:literal, $help:literal) => {
        $type::with_opts(Opts::new($family, $help)).expect("a family's name is valid")
    };
    (@make $type:ident, $family:literal, $help:literal, $labels:expr) => {
        $type::new(Opts::new($family, $help), $labels).expect("a family's name is valid")
    };
    (@make $type:ident, $family:literal, $help:literal, $labels:expr; $buckets:expr) => {
        $type::new(HistogramOpts::new($family, $help).buckets($buckets.to_vec()), $labels)
            .expect("a family's name is valid")
    };
}

families!(
    /// The metric families of tailhop.
    Metrics {
        build_info: IntGaugeVec("tailhop_build_info", "Always 1; the version of this build.", &["version"]),
        start_time: Gauge("tailhop_start_time_seconds", "When this process started, in seconds since 1970."),

        config_ok: IntGauge("tailhop_config_last_reload_successful", "1 if the configuration on disk is the one in use."),
        config_success_time: Gauge("tailhop_config_last_reload_success_timestamp_seconds", "When a configuration was last taken into use."),
        config_attempt_time: Gauge("tailhop_config_last_reload_attempt_timestamp_seconds", "When a changed configuration was last looked at."),
        config_reloads: IntCounterVec("tailhop_config_reloads_total", "Changed configurations looked at, by result.", &["result"]),
        config_rejections: IntCounterVec("tailhop_config_rejections_total", "Configurations that were not taken into use, by the first reason.", &["reason"]),
        config_info: IntGaugeVec("tailhop_config_info", "Always 1; the configuration in use.", &["sha", "source"]),
        watch_mode: IntGaugeVec("tailhop_config_watch_mode_info", "Always 1; how changes of the file are noticed.", &["mode"]),

        requests: IntCounterVec("tailhop_requests_total", "Requests that ended, by the class of their status.", &["service", "backend", "op", "code_class"]),
        request_seconds: HistogramVec("tailhop_request_duration_seconds", "From a request's head to the end of its answer.", &["service", "backend", "op"]; REQUEST_BUCKETS),
        first_byte_seconds: HistogramVec("tailhop_response_first_byte_seconds", "From a request's head to the head of its answer.", &["service", "backend"]; REQUEST_BUCKETS),
        in_flight: IntGaugeVec("tailhop_requests_in_flight", "Requests that a backend is working on.", &["service", "backend"]),
        request_bytes: IntCounterVec("tailhop_request_bytes_total", "Bytes of request bodies.", &["service", "backend"]),
        response_bytes: IntCounterVec("tailhop_response_bytes_total", "Bytes of answer bodies.", &["service", "backend"]),
        refused: IntCounterVec("tailhop_requests_refused_total", "Requests that got an error of ours, by its reason.", &["service", "reason"]),
        client_aborts: IntCounterVec("tailhop_client_aborts_total", "Requests whose client left.", &["service", "phase"]),
        streams: IntCounterVec("tailhop_streams_total", "Streams of models that ended, by how.", &["service", "backend", "end"]),
        truncations: IntCounterVec("tailhop_stream_truncations_total", "Answers that broke off after their head.", &["service", "backend", "cause"]),

        llm_first_token_seconds: HistogramVec("tailhop_llm_time_to_first_token_seconds", "From a request's head to the first piece of a model's stream.", &["service", "backend", "model"]; FIRST_TOKEN_BUCKETS),
        llm_token_seconds: HistogramVec("tailhop_llm_time_per_output_token_seconds", "An output token of an answer, on average.", &["service", "backend", "model"]; TOKEN_BUCKETS),
        llm_load_seconds: HistogramVec("tailhop_llm_load_duration_seconds", "What Ollama took to have the model in memory.", &["service", "backend", "model"]; REQUEST_BUCKETS),
        llm_prompt_seconds: HistogramVec("tailhop_llm_prompt_duration_seconds", "What Ollama took to evaluate a prompt.", &["service", "backend", "model"]; REQUEST_BUCKETS),
        llm_queue_seconds: HistogramVec("tailhop_llm_queue_duration_seconds", "What an answer took in Ollama besides load, prompt and tokens: mostly the wait for its turn.", &["service", "backend", "model"]; REQUEST_BUCKETS),
        llm_tokens: IntCounterVec("tailhop_llm_tokens_total", "Tokens of prompts (input) and of answers (output).", &["service", "backend", "model", "type"]),
        llm_rate: GaugeVec("tailhop_llm_tokens_per_second", "Output tokens a second of the answer that ended last.", &["service", "backend", "model"]),
        llm_loaded: IntGaugeVec("tailhop_llm_models_loaded", "Models in memory, as a backend told last.", &["service", "backend"]),

        cache_lookups: IntCounterVec("tailhop_cache_lookups_total", "Inputs whose embedding was looked up: hit, miss, or shared with a request that was asking for it.", &["service", "result"]),
        cache_evictions: IntCounterVec("tailhop_cache_evictions_total", "Embeddings that had to go for others, or were too old.", &["service"]),
        cache_saved: CounterVec("tailhop_cache_saved_seconds_total", "Seconds that the embeddings that were found took to make.", &["service"]),
        cache_entries: IntGaugeVec("tailhop_cache_entries", "Embeddings that are kept.", &["service"]),
        cache_bytes: IntGaugeVec("tailhop_cache_bytes", "Memory of the embeddings that are kept.", &["service"]),

        queue_depth: IntGaugeVec("tailhop_queue_depth", "Inferences that wait for a place at a backend.", &["service", "backend"]),
        queue_wait_seconds: HistogramVec("tailhop_queue_wait_seconds", "How long an inference waited for its place at a backend that has a limit, or until it left.", &["service", "backend", "result"]; REQUEST_BUCKETS),
        queue_position: HistogramVec("tailhop_queue_position", "Which place in the line an inference had when it came; 0: none, it did not wait.", &["service", "backend"]; POSITION_BUCKETS),

        prewarms: IntCounterVec("tailhop_prewarms_total", "Models loaded before they were asked for, by occasion and result.", &["service", "backend", "occasion", "result"]),

        connect_seconds: HistogramVec("tailhop_connect_duration_seconds", "Dials that succeeded.", &["backend"]; CONNECT_BUCKETS),
        connects: IntCounterVec("tailhop_connects_total", "Dials, by result.", &["backend", "result"]),
        retries: IntCounterVec("tailhop_retries_total", "Further attempts of a request, by what had failed.", &["service", "reason"]),
        fallbacks: IntCounterVec("tailhop_fallbacks_total", "Requests answered by a backend that is not the active one.", &["service", "from", "to", "reason"]),
        idle_connections: IntGaugeVec("tailhop_pool_connections", "Kept-alive upstream connections.", &["service", "backend", "state"]),

        verdict: IntGaugeVec("tailhop_backend_state", "1 for the verdict that holds, 0 for the others.", &["service", "backend", "state"]),
        backend_up: IntGaugeVec("tailhop_backend_up", "1 if the verdict is up.", &["service", "backend"]),
        active: IntGaugeVec("tailhop_backend_active", "1 for the backend that orders and schedule name.", &["service", "backend"]),
        serving: IntGaugeVec("tailhop_backend_serving", "1 for each backend that answered in the last 60 s.", &["service", "backend"]),
        required_missing: IntGaugeVec("tailhop_backend_required_missing", "How much of what `require` names the backend is known to lack.", &["service", "backend"]),
        probes: IntCounterVec("tailhop_health_checks_total", "Probes, by result.", &["service", "backend", "result"]),
        probe_seconds: HistogramVec("tailhop_health_check_duration_seconds", "Probes that passed.", &["service", "backend"]; CONNECT_BUCKETS),

        repairs: IntCounterVec("tailhop_tunnel_repairs_total", "Repairs of the tunnel, by result.", &["repair", "result"]),
        inquiries: IntCounterVec("tailhop_tunnel_inquiries_total", "Why machines did not answer dials, by finding.", &["backend", "finding"]),
        freezes: IntCounter("tailhop_freezes_total", "Times that the process stood still."),
        freeze_seconds: Counter("tailhop_freeze_seconds_total", "Seconds that the process stood still."),
        hedges: IntCounterVec("tailhop_hedges_total", "Cheap reads that were not answered at once and went to the next backend.", &["service"]),

        switches: IntCounterVec("tailhop_switches_total", "Changes of the active backend, by cause.", &["service", "cause"]),
        serving_changes: IntCounterVec("tailhop_serving_changes_total", "Changes of the backends that answer, by cause.", &["service", "cause"]),
        admin_refused: IntCounterVec("tailhop_admin_refused_total", "Requests that the admin address refused, by reason.", &["reason"]),
        pin_active: IntGaugeVec("tailhop_pin_active", "1 while a pin holds.", &["service"]),
        pin_contradiction: IntGaugeVec("tailhop_pin_contradicts_schedule", "1 while a pin names another backend than the schedule.", &["service"]),
        pin_expiry: GaugeVec("tailhop_pin_expiry_timestamp_seconds", "When the pin that holds expires; 0: none holds, or it has no expiry.", &["service"]),
        next_switch: GaugeVec("tailhop_schedule_next_timestamp_seconds", "When the next planned switch comes; 0: none is planned.", &["service"]),
        switch_held: IntGaugeVec("tailhop_schedule_switch_held", "1 while a planned switch is held, as its backend lacks what `require` names.", &["service"]),
        contradiction: IntGaugeVec("tailhop_active_backend_contradicts_schedule", "1 while `ACTIVE_BACKEND` names another backend than the schedule.", &["service"]),

        peer_online: IntGaugeVec("tailhop_peer_online", "1 if the control plane has the machine connected.", &["backend"]),
        peer_direct: IntGaugeVec("tailhop_peer_direct", "1 if tailscaled has a direct path to the machine, 0 if by relay or idle.", &["backend"]),
        key_expiry: Gauge("tailhop_node_key_expiry_timestamp_seconds", "When this machine's node key expires; 0: never, or not known."),
        tunnel: IntGaugeVec("tailhop_tunnel_state", "1 for the state of the tunnel that holds.", &["state"]),
        child_up: IntGaugeVec("tailhop_child_up", "1 while the process that we started runs.", &["child"]),
        child_restarts: IntCounterVec("tailhop_child_restarts_total", "Times that a process of ours was started again.", &["child"]),
        log_dropped: IntCounter("tailhop_log_dropped_total", "Access lines dropped because the output was full."),
    }
);

/// Names of models that are labels: the first so many that there were.
#[derive(Default)]
pub struct ModelNames(Mutex<BTreeSet<String>>);

impl ModelNames {
    /// Whether this name may be a label.
    pub fn admits(&self, name: &str) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.contains(name) || names.len() < MODELS && names.insert(name.to_owned())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing into memory cannot fail, and a family without samples is left out by itself.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_models_than_so_many_have_a_label() {
        let names = ModelNames::default();
        for number in 0..MODELS {
            assert!(names.admits(&number.to_string()));
        }
        assert!(!names.admits("one more"));
        assert!(names.admits("0"));
    }

    #[test]
    fn every_family_registers_and_prints_its_help() {
        let metrics = Metrics::new();
        metrics
            .requests
            .with_label_values(&["ollama", "m1", "chat", "2xx"])
            .inc();
        metrics.build_info.with_label_values(&["1"]).set(1);
        let text = metrics.text();
        assert!(text.contains(
            "tailhop_requests_total{backend=\"m1\",code_class=\"2xx\",op=\"chat\",service=\"ollama\"} 1"
        ));
        assert!(text.contains("# HELP tailhop_build_info "));
    }
}
