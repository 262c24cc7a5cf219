//! The interface's own description, read as a client would: its operations, and requests that each of them takes.
//!
//! Whatever iterates over it covers a new route by itself, as long as the schemas of its body say what fits.

use serde_json::{Map, Value, json};
use store::random;

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) method: reqwest::Method,
    /// The path with its parameters in braces.
    pub(crate) path: String,
    /// Whether it needs no token.
    pub(crate) is_public: bool,
    /// The schema of its JSON body, if it takes one.
    pub(crate) body: Option<Value>,
    /// Whether it takes any other body.
    pub(crate) takes_bytes: bool,
    /// Its parameters, as described.
    pub(crate) parameters: Vec<Value>,
    /// The operation, as described.
    pub(crate) described: Value,
}

/// The description and what can be read from it.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) document: Value,
    pub(crate) operations: Vec<Operation>,
}

impl Interface {
    /// Reads the server's description.
    pub(crate) fn read() -> Self {
        let document: Value = serde_json::from_str(&server::openapi_json()).expect("the description is JSON");
        let mut interface = Self { document, operations: Vec::new() };
        for (path, item) in interface.document["paths"].as_object().expect("paths").clone() {
            for (method, described) in item.as_object().expect("a path's methods") {
                interface.operations.push(interface.operation(&path, method, described));
            }
        }
        assert!(interface.operations.len() > 20, "the description lost its operations");
        interface
    }

    /// Returns the operations that need a token.
    pub(crate) fn guarded(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(|operation| !operation.is_public)
    }

    fn operation(&self, path: &str, method: &str, described: &Value) -> Operation {
        let content = described["requestBody"]["content"].as_object();
        let body = content.and_then(|content| content.get("application/json")).map(|json| json["schema"].clone());
        let mut parameters = described["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in &mut parameters {
            parameter["schema"] = self.resolve(&parameter["schema"]).clone();
        }
        Operation {
            id: described["operationId"].as_str().unwrap_or_default().to_owned(),
            method: method.to_uppercase().parse().expect("a method"),
            path: path.to_owned(),
            is_public: described["security"] == json!([{}]),
            takes_bytes: content.is_some() && body.is_none(),
            body,
            parameters,
            described: described.clone(),
        }
    }

    /// Returns a body that an operation takes, the smallest there is.
    pub(crate) fn body(&self, operation: &Operation) -> Option<Value> {
        let mut body = operation.body.as_ref().map(|schema| self.example(schema))?;
        // Without an image there must be a program, which no schema says.
        if operation.id == "execution_create" {
            body["command"] = json!(["example"]);
        }
        Some(body)
    }

    /// Follows a reference.
    pub(crate) fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(place) => self.document.pointer(&place[1..]).unwrap_or_else(|| panic!("{place} is nowhere")),
            None => schema,
        }
    }

    /// Returns the smallest value that fits a schema: what is not required is left out.
    fn example(&self, schema: &Value) -> Value {
        let schema = self.resolve(schema);
        if let Some(words) = schema["enum"].as_array() {
            return words[0].clone();
        }
        if let Some(one) = schema["oneOf"].as_array() {
            return self.example(&one[0]);
        }
        match schema["type"].as_str() {
            Some("object") => {
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let field = |name: &Value| {
                    let name = name.as_str().expect("a field's name");
                    (name.to_owned(), self.example(&schema["properties"][name]))
                };
                Value::Object(required.iter().map(field).collect::<Map<_, _>>())
            }
            Some("array") => {
                let count = schema["minItems"].as_u64().unwrap_or(0);
                (0..count).map(|_| self.example(&schema["items"])).collect()
            }
            Some("string") if schema["format"] == "date-time" => json!("2025-01-01T00:00:00Z"),
            Some("string") => schema["pattern"].as_str().map_or_else(|| json!("example"), |text| json!(text_of(text))),
            Some("integer") => schema["minimum"].as_u64().unwrap_or(1).into(),
            Some("boolean") => true.into(),
            other => panic!("teach `example` the type {other:?} of {schema}"),
        }
    }
}

impl Operation {
    /// Tells whether it changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self.method, reqwest::Method::GET | reqwest::Method::HEAD)
    }

    /// Returns the pattern of the one parameter in its path, if it has one.
    pub(crate) fn path_pattern(&self) -> Option<&str> {
        let parameter = self.parameters.iter().find(|parameter| parameter["in"] == "path")?;
        Some(parameter["schema"]["pattern"].as_str().expect("what names a thing has a pattern"))
    }

    /// Returns the names of its questions.
    pub(crate) fn questions(&self) -> Vec<&str> {
        let asked = self.parameters.iter().filter(|parameter| parameter["in"] == "query");
        asked.map(|parameter| parameter["name"].as_str().expect("a name")).collect()
    }

    /// Returns its path with this in place of the parameter.
    pub(crate) fn path_with(&self, name: &str) -> String {
        let named = self.parameters.iter().filter(|parameter| parameter["in"] == "path");
        let mut path = self.path.clone();
        for (place, parameter) in named.enumerate() {
            // What stands behind the first fits and names nothing.
            let pattern = parameter["schema"]["pattern"].as_str().expect("what names a thing has a pattern");
            let text = if place == 0 { name.to_owned() } else { text_of(pattern) };
            let (Some(begin), Some(end)) = (path.find('{'), path.find('}')) else { break };
            path = format!("{}{text}{}", &path[..begin], &path[end + 1..]);
        }
        self.with_required(path)
    }

    /// Adds the questions that it cannot do without.
    fn with_required(&self, mut path: String) -> String {
        for parameter in self.parameters.iter().filter(|one| one["in"] == "query" && one["required"] == true) {
            let name = parameter["name"].as_str().expect("a name");
            let value = match name {
                "session" => text_of("^ses_[0-7]"),
                "attempt" => "1".to_owned(),
                other => panic!("teach `with_required` the question {other}"),
            };
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{name}={value}"));
        }
        path
    }

    /// Returns its path with a name in it that fits and that nothing has.
    pub(crate) fn any_path(&self) -> String {
        self.path_with(&self.path_pattern().map(text_of).unwrap_or_default())
    }
}

/// Returns a new text that matches one of our patterns: an id, a digest or a name.
pub(crate) fn text_of(pattern: &str) -> String {
    let random = format!("{:032x}", random());
    if let Some((prefix, _)) = pattern.split_once("_[0-7]") {
        return format!("{}_0{}", prefix.trim_start_matches('^'), &random[..25]);
    }
    match pattern {
        "^[A-Za-z0-9+/]*={0,2}$" => "aGVsbG8=".to_owned(),
        "^[0-9a-f]{64}$" => random.repeat(2),
        "^([0-9a-f]{2}){2,64}$" => random,
        "^[0-9a-f]{32}$" | "^[0-9a-f]{1,32}$" | "^(dmp_[0-9a-z]{26}|[0-9a-f]{1,32})$" => random,
        "^[A-Za-z0-9._-]{1,64}$" | "^[!-~]{1,512}$" | "^[A-Za-z0-9._:\\[\\]-]{1,128}$" => format!("x{random}"),
        "^[A-Za-z0-9][A-Za-z0-9._@-]*$" | "^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$" => format!("x{random}"),
        other => panic!("teach `text_of` the pattern {other}"),
    }
}
