//! JSON that any two programs read alike: no name twice in one object, at any depth, and no more depth than is needed.
//!
//! RFC 7519 §4 lets a parser take the last of two claims of one name. Another program takes the first, and then the token says
//! something else there. RFC 8725 §2.4 warns of such differences.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deepest nesting of objects and lists. Claims of identity providers need four.
pub const DEPTH_MAX: usize = 8;

/// Why bytes are no JSON object that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Nested too deeply.
    #[error("it is nested more than {DEPTH_MAX} deep")]
    Depth,
    /// One name twice.
    #[error("an object has two members of one name")]
    Duplicate,
    /// Something else than an object.
    #[error("it is no JSON object")]
    NoObject,
    /// No JSON.
    #[error("it is no JSON, at line {line}, column {column}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
}

/// Reads an object and nothing beside it.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let problem = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = Strict { depth_left: DEPTH_MAX, problem: &problem }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match read {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(JsonError::NoObject),
        Err(error) => {
            let syntax = JsonError::Syntax { line: error.line(), column: error.column() };
            Err(problem.get().unwrap_or(syntax))
        }
    }
}

/// Reads one value. What is wrong beside the syntax is left in `problem`, since an error of the library holds text only.
#[derive(Clone, Copy)]
struct Strict<'problem> {
    depth_left: usize,
    problem: &'problem Cell<Option<JsonError>>,
}

impl Strict<'_> {
    fn refuse<E: Error>(&self, problem: JsonError) -> E {
        self.problem.set(Some(problem));
        E::custom(problem)
    }

    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left, ..self }),
            None => Err(self.refuse(JsonError::Depth)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number without end"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            let value = object.next_value_seed(inner)?;
            if members.insert(name, value).is_some() {
                return Err(self.refuse(JsonError::Duplicate));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<Value, JsonError>) {
        assert_eq!(object(text.as_bytes()).map(Value::Object), expected, "{text}");
    }

    #[test]
    fn an_object_is_read_as_the_library_reads_it() {
        let text = r#"{"a":[1,-2,0.5,1e3,18446744073709551615,null,true,"x\u00e9"],"b":{"c":{}}}"#;
        check(text, Ok(serde_json::from_str(text).unwrap()));
        check("{}", Ok(Value::Object(Map::new())));
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth() {
        check(r#"{"a":1,"a":1}"#, Err(JsonError::Duplicate));
        check(r#"{"a":1,"\u0061":2}"#, Err(JsonError::Duplicate));
        check(r#"{"b":[{"c":{"a":1,"x":0,"a":2}}]}"#, Err(JsonError::Duplicate));
        check(r#"{"a":{"a":1},"A":2}"#, Ok(serde_json::json!({"a": {"a": 1}, "A": 2})));
    }

    #[test]
    fn depth_has_a_bound() {
        let nested = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(object(nested(DEPTH_MAX).as_bytes()).is_ok());
        check(&nested(DEPTH_MAX + 1), Err(JsonError::Depth));
        check(&nested(10_000), Err(JsonError::Depth));
        check(&r#"{"a":"#.repeat(10_000), Err(JsonError::Depth));
    }

    #[test]
    fn anything_beside_one_object_is_refused() {
        check("[]", Err(JsonError::NoObject));
        check("\"{}\"", Err(JsonError::NoObject));
        check("1", Err(JsonError::NoObject));
        let syntax = |column| Err(JsonError::Syntax { line: 1, column });
        check("", syntax(0));
        check("{} {}", syntax(4));
        check("{\"a\":NaN}", syntax(6));
        check("{\"a\":1e999}", syntax(10));
        check("{\"a\":01}", syntax(7));
        check("{\"a\":\"\\ud800\"}", syntax(13));
        check("{'a':1}", syntax(2));
        check("\u{feff}{}", syntax(1));
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
    }
}
