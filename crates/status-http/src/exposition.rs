//! The two text formats of a metrics page: which one a client requests, and how a page is written in it.
//!
//! The metrics library writes [`OpenMetrics`]. The older Prometheus format differs around the samples: a counter is
//! described under the name of its sample, with `_total`, and there are no units, exemplars or end marker.
//!
//! [`OpenMetrics`]: https://prometheus.io/docs/specs/om/open_metrics_spec/

use std::fmt::{self, Write as _};

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderValue};
use prometheus_client::registry::Registry;

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Text,
}

impl Format {
    /// The format that a request prefers; a request that accepts neither gets [`Format::Text`], which every Prometheus
    /// client reads.
    pub(crate) fn preferred(headers: &HeaderMap) -> Self {
        let mut open_metrics = 0.0_f32;
        let mut text = 0.0_f32;
        let values = headers.get_all(ACCEPT).iter();
        for range in values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
        {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut version, mut quality) = (None, 1.0);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match key.trim().to_ascii_lowercase().as_str() {
                    "version" => version = Some(value),
                    "q" => quality = value.parse().unwrap_or(0.0),
                    _ => {}
                }
            }
            match (name.as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0")) => {
                    open_metrics = open_metrics.max(quality);
                }
                ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => {
                    text = text.max(quality);
                }
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        })
    }

    /// Writes all metrics of a registry.
    pub(crate) fn write(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, registry)?;
        match self {
            Self::OpenMetrics => Ok(page),
            Self::Text => text_of(&page),
        }
    }
}

/// Converts a page of `OpenMetrics` to the text format of Prometheus.
fn text_of(page: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(page.len());
    let mut help = "";
    for line in page.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            // Its name depends on the type, which is on the next line.
            help = described.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap_or((described, "unknown"));
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "gauge" | "histogram" | "summary" => ("", kind),
                _ => ("", "untyped"),
            };
            writeln!(text, "# HELP {name}{suffix} {help}")?;
            writeln!(text, "# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(text, "{}", without_exemplar(line))?;
        }
    }
    Ok(text)
}

/// A sample without its exemplar.
fn without_exemplar(sample: &str) -> &str {
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (place, character) in sample.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '#' if !is_quoted => return sample.get(..place).unwrap_or(sample).trim_end(),
            _ => {}
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::Unit;

    #[test]
    fn a_client_gets_the_format_that_it_prefers() {
        use Format::{OpenMetrics, Text};
        for (accept, expected) in [
            (None, Text),
            (Some("*/*"), Text),
            (Some("text/plain"), Text),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), Text),
            (Some("application/openmetrics-text"), OpenMetrics),
            (
                Some("Application/OpenMetrics-Text; Version=1.0.0"),
                OpenMetrics,
            ),
            (
                Some("application/openmetrics-text; version=\"1.0.0\", */*"),
                OpenMetrics,
            ),
            (Some("application/openmetrics-text; version=0.0.1"), Text),
            (
                Some("application/openmetrics-text;q=0, text/plain;q=0.1"),
                Text,
            ),
            (Some("text/plain, application/openmetrics-text;q=0.5"), Text),
            // Prometheus 2 and 3.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                OpenMetrics,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ),
                OpenMetrics,
            ),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(Format::preferred(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_text_format_describes_a_metric_under_the_name_of_its_samples() {
        let mut registry = Registry::default();
        let bytes = Family::<[(&str, &str); 1], Counter>::default();
        bytes.get_or_create(&[("path", "a # \"b")]).inc_by(7);
        registry.register_with_unit("sent", "Bytes sent", Unit::Bytes, bytes);
        registry.register("build", "What runs", Info::new([("version", "1")]));
        assert_eq!(
            Format::Text.write(&registry).unwrap(),
            "# HELP sent_bytes_total Bytes sent.\n\
             # TYPE sent_bytes_total counter\n\
             sent_bytes_total{path=\"a # \\\"b\"} 7\n\
             # HELP build_info What runs.\n\
             # TYPE build_info gauge\n\
             build_info{version=\"1\"} 1\n"
        );
    }

    #[test]
    fn an_exemplar_is_left_out_of_the_text_format() {
        for (sample, expected) in [
            ("a_total 7 # {id=\"x\"} 1.0", "a_total 7"),
            ("a{l=\"x # \\\" y\"} 7", "a{l=\"x # \\\" y\"} 7"),
            ("a{l=\"x # y\"} 7 # {id=\"#\"} 1.0 5", "a{l=\"x # y\"} 7"),
        ] {
            assert_eq!(without_exemplar(sample), expected);
        }
    }
}
