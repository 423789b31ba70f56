//! What the examples share: a small service in the shape of OpenAI's API.

pub mod openai_service;
