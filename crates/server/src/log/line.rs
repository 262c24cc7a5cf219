//! One event as one line. Whatever a caller managed to put into a field, it stays on its line and within its length.

use crate::log::level::{level_of, module_of};
use crate::log::sink::Sinks;
use jiff::Timestamp;
use model::log::LogLevel;
use serde::Serialize;
use serde_json::{Map, Value};
use std::error::Error;
use std::fmt::{self, Write};
use store::Clock;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber, span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Scope};

/// Bytes of one value; what is longer is cut.
const MAX_VALUE_BYTES: usize = 8 * 1024;
/// Causes of one error that are followed.
const MAX_CAUSES: usize = 16;
/// The field that holds an event's text.
const MESSAGE: &str = "message";

/// Writes each event as a line, with the fields of the spans around it.
pub(super) struct LineLayer {
    json: bool,
    sinks: Sinks,
    clock: Clock,
}

impl LineLayer {
    pub(super) fn new(json: bool, sinks: Sinks, clock: Clock) -> Self {
        Self { json, sinks, clock }
    }

    fn write(&self, line: &Line<'_>) {
        let text = line.render(self.json);
        self.sinks.write(module_of(line.target), &text, |lost| {
            let message = format!("{lost} lines before this one could not be written");
            let fields = vec![(MESSAGE, Value::from(message))];
            Line { level: LogLevel::Warn, target: module_path!(), fields, spans: Vec::new(), at: line.at }
                .render(self.json)
        });
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LineLayer {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        let mut newer = Fields::default();
        values.record(&mut newer);
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            fields.0.retain(|(name, _)| newer.0.iter().all(|(other, _)| other != name));
            fields.0.append(&mut newer.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = context.event_scope(event).into_iter().flat_map(Scope::from_root);
        let spans = spans.map(|span| {
            let fields = span.extensions().get::<Fields>().map(|fields| fields.0.clone());
            (span.name(), fields.unwrap_or_default())
        });
        self.write(&Line {
            at: self.clock.now(),
            level: level_of(*event.metadata().level()),
            target: event.metadata().target(),
            fields: fields.0,
            spans: spans.collect(),
        });
    }
}

type FieldList = Vec<(&'static str, Value)>;

/// What a line says.
struct Line<'a> {
    at: Timestamp,
    level: LogLevel,
    target: &'a str,
    fields: FieldList,
    /// The spans around it, outermost first.
    spans: Vec<(&'static str, FieldList)>,
}

impl Line<'_> {
    fn render(&self, json: bool) -> String {
        let mut line = if json { self.json() } else { self.text() };
        line.push('\n');
        line
    }

    fn message(&self) -> Option<&Value> {
        self.fields.iter().find(|(name, _)| *name == MESSAGE).map(|(_, value)| value)
    }

    fn others(&self) -> impl Iterator<Item = &(&'static str, Value)> {
        self.fields.iter().filter(|(name, _)| *name != MESSAGE)
    }

    fn json(&self) -> String {
        let object = |(name, value): &(&'static str, Value)| ((*name).to_owned(), value.clone());
        let line = JsonLine {
            timestamp: format!("{:.6}", self.at),
            level: self.level.as_str(),
            target: self.target,
            message: self.message(),
            fields: self.others().map(object).collect(),
            // An inner span knows better than an outer one what a name means.
            span: self.spans.iter().flat_map(|(_, fields)| fields.iter().map(object)).collect(),
            spans: self.spans.iter().map(|(name, _)| *name).collect(),
        };
        serde_json::to_string(&line).expect("texts, numbers and tables with text as keys always serialise")
    }

    fn text(&self) -> String {
        let mut line = format!("{:.6} {:5} {}:", self.at, self.level.as_str(), self.target);
        if let Some(message) = self.message() {
            line.push(' ');
            match message.as_str() {
                Some(message) => line.push_str(&on_one_line(message)),
                None => line.push_str(&message.to_string()),
            }
        }
        for (name, value) in self.others() {
            push_field(&mut line, name, value);
        }
        for (name, fields) in &self.spans {
            line.push_str(" [");
            line.push_str(name);
            for (name, value) in fields {
                push_field(&mut line, name, value);
            }
            line.push(']');
        }
        line
    }
}

/// A line for programs. Fields keep to themselves, so that none can pass for the level or the time.
#[derive(Serialize)]
struct JsonLine<'a> {
    timestamp: String,
    level: &'static str,
    target: &'a str,
    message: Option<&'a Value>,
    fields: Map<String, Value>,
    /// The fields of all spans around the line.
    span: Map<String, Value>,
    /// Their names, outermost first.
    spans: Vec<&'static str>,
}

fn push_field(line: &mut String, name: &str, value: &Value) {
    line.push(' ');
    line.push_str(name);
    line.push('=');
    let Some(text) = value.as_str() else { return line.push_str(&value.to_string()) };
    let quoted = text.len() >= 2 && text.starts_with('"') && text.ends_with('"');
    let plain = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || "\"=[]".contains(c));
    if plain || quoted {
        line.push_str(&on_one_line(text));
    } else {
        line.push_str(&format!("{text:?}"));
    }
}

/// Escapes what would end the line or move a terminal's cursor.
fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        // The separators of line and paragraph are not control characters, but some viewers break at them.
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Fields in the order in which they were said.
#[derive(Default)]
struct Fields(FieldList);

impl Fields {
    fn push(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.push((field.name(), value.into()));
    }

    fn push_text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let mut bounded = BoundedText::default();
        // The only error is that it is full, and then it says so itself.
        let _ = bounded.write_fmt(text);
        self.push(field, bounded.text);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push_text(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = BoundedText::default();
        let causes = std::iter::successors(Some(value), |error: &&(dyn Error + 'static)| (*error).source());
        for (depth, cause) in causes.take(MAX_CAUSES).enumerate() {
            let _ = write!(text, "{}{cause}", if depth == 0 { "" } else { ": " });
        }
        self.push(field, text.text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push_text(field, format_args!("{value:?}"));
    }
}

/// A text that stops growing at `MAX_VALUE_BYTES`, so that a huge value is not even put into words.
#[derive(Default)]
struct BoundedText {
    text: String,
    full: bool,
}

impl Write for BoundedText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.full {
            return Err(fmt::Error);
        }
        let room = MAX_VALUE_BYTES - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        self.full = true;
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
        self.text.push('…');
        Err(fmt::Error)
    }
}
