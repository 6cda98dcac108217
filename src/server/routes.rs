//! Routes and their OpenAPI operations, defined together: a handler cannot be added without the operation
//! that documents it. [`Routes`] yields the axum router and the `paths` of the OpenAPI document.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, delete, get, post, put};
use serde_json::{Map, Value, json};

use super::app::{App, Caller};
use super::openapi::Operation;
use super::openapi::schemas::string;
use super::problem::{Problem, answer_with};

/// A router and the operations of its routes.
#[derive(Clone)]
pub struct Routes {
    tag: &'static str,
    router: Router<App>,
    operations: Vec<Documented>,
}

#[derive(Clone)]
struct Documented {
    method: &'static str,
    path: String,
    operation: Operation,
}

impl Routes {
    /// No routes yet. `tag` groups the operations in the document.
    pub fn new(tag: &'static str) -> Self {
        Self { tag, router: Router::new(), operations: Vec::new() }
    }

    pub fn get<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H, operation: Operation) -> Self {
        self.add("get", path, get(handler), operation)
    }

    pub fn post<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H, operation: Operation) -> Self {
        self.add("post", path, post(handler), operation)
    }

    pub fn put<H: Handler<T, App>, T: 'static>(self, path: &str, handler: H, operation: Operation) -> Self {
        self.add("put", path, put(handler), operation)
    }

    pub fn delete<H: Handler<T, App>, T: 'static>(
        self,
        path: &str,
        handler: H,
        operation: Operation,
    ) -> Self {
        self.add("delete", path, delete(handler), operation)
    }

    /// A POST route that is documented as `variants`: the paths that its parameters can take, each with its
    /// operation.
    pub fn post_variants<H: Handler<T, App>, T: 'static>(
        mut self,
        path: &str,
        handler: H,
        variants: impl IntoIterator<Item = (String, Operation)>,
    ) -> Self {
        self.router = self.router.route(path, post(handler));
        for (path, operation) in variants {
            self.document("post", path, operation);
        }
        self
    }

    /// The operation of a route that [`Self::undocumented`] adds.
    pub fn documented(mut self, method: &'static str, path: &str, operation: Operation) -> Self {
        self.document(method, path.to_string(), operation);
        self
    }

    /// A route that is not in the document, such as a file of the web page.
    pub fn undocumented(mut self, path: &str, method: MethodRouter<App>) -> Self {
        self.router = self.router.route(path, method);
        self
    }

    /// Every other path below `prefix`: an authenticated caller is told that there is no such `what`.
    pub fn not_found_below(self, prefix: &str, what: &'static str) -> Self {
        let handler = any(move |_: Caller| async move { Problem::NotFound(what) });
        self.undocumented(&format!("{prefix}/{{*path}}"), handler)
    }

    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// Adds `other` with `prefix` before its paths.
    pub fn nest(mut self, prefix: &str, other: Self) -> Self {
        self.router = self.router.nest(prefix, other.router);
        let prefixed = |documented: Documented| Documented {
            path: format!("{prefix}{}", documented.path),
            ..documented
        };
        self.operations.extend(other.operations.into_iter().map(prefixed));
        self
    }

    /// Sets the body limit of the routes so far; `None` removes it.
    pub fn body_limit(mut self, bytes: Option<usize>) -> Self {
        self.router = self.router.layer(bytes.map_or_else(DefaultBodyLimit::disable, DefaultBodyLimit::max));
        self
    }

    /// Passes every response of the routes so far through `map`.
    pub fn map_response<F, O>(mut self, map: impl Fn(Response) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = O> + Send + 'static,
        O: IntoResponse + Send + 'static,
    {
        self.router = self.router.layer(map_response(map));
        self
    }

    /// Formats the problems of the routes so far as `format` does.
    pub fn errors(self, format: impl Fn(&Problem) -> Response + Clone + Send + Sync + 'static) -> Self {
        self.map_response(answer_with(format))
    }

    pub fn into_router(self) -> Router<App> {
        self.router
    }

    pub fn router(&self) -> &Router<App> {
        &self.router
    }

    /// The `paths` object of the OpenAPI document.
    pub fn paths(&self) -> Map<String, Value> {
        let mut paths = Map::new();
        for Documented { method, path, operation } in &self.operations {
            let methods = paths.entry(path.clone()).or_insert_with(|| json!({}));
            methods[method] = with_path_parameters(path, operation.clone());
        }
        paths
    }

    fn add(
        mut self,
        method: &'static str,
        path: &str,
        handler: MethodRouter<App>,
        operation: Operation,
    ) -> Self {
        self.router = self.router.route(path, handler);
        self.document(method, path.to_string(), operation);
        self
    }

    fn document(&mut self, method: &'static str, path: String, operation: Operation) {
        self.operations.push(Documented { method, path, operation: operation.tagged(self.tag) });
    }
}

/// Adds the parameters of `path` that `operation` does not describe itself: they are strings.
fn with_path_parameters(path: &str, operation: Operation) -> Value {
    let mut value = operation.into_value();
    let mut parameters: Vec<Value> = value["parameters"].as_array().cloned().unwrap_or_default();
    for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        if !parameters.iter().any(|parameter| parameter["name"] == name) {
            parameters.push(json!({"name": name, "in": "path", "required": true, "schema": string()}));
        }
    }
    value["parameters"] = parameters.into();
    value
}
