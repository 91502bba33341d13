//! The routes of a snapshot, found by path.
//!
//! Owns their order and a tree of path segments that is built once a snapshot, so that a request
//! costs the same with two routes and with a thousand. Invariant: whole segments and bytes are
//! compared, nothing is decoded; [`Routes::longest`] is what looking at every route would find.

use std::ops::Deref;

use super::snapshot::Route;

/// All routes, longest path first.
#[derive(Clone, Debug)]
pub struct Routes {
    list: Vec<Route>,
    root: Node,
}

/// What lies under one path.
#[derive(Clone, Debug, Default)]
struct Node {
    /// The place in the list of the route that has this very path.
    route: Option<usize>,
    /// By the next segment, sorted by it.
    below: Vec<(Box<str>, Self)>,
}

impl Routes {
    /// The route with the longest path that is `path` or a parent of it.
    pub fn longest(&self, path: &str) -> Option<&Route> {
        let mut found = self.root.route;
        let mut node = &self.root;
        for segment in (path.strip_prefix('/')?.as_bytes()).split(|byte| *byte == b'/') {
            let Ok(place) = node.place(segment) else {
                break;
            };
            node = &node.below[place].1;
            found = node.route.or(found);
        }
        self.list.get(found?)
    }
}

impl From<Vec<Route>> for Routes {
    fn from(mut list: Vec<Route>) -> Self {
        list.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        let mut root = Node::default();
        for (number, route) in list.iter().enumerate() {
            root.add(route.path.strip_prefix('/').unwrap_or(&route.path), number);
        }
        Self { list, root }
    }
}

impl Deref for Routes {
    type Target = [Route];

    fn deref(&self) -> &[Route] {
        &self.list
    }
}

impl Node {
    fn place(&self, segment: &[u8]) -> Result<usize, usize> {
        self.below
            .binary_search_by(|(name, _)| name.as_bytes().cmp(segment))
    }

    fn add(&mut self, path: &str, number: usize) {
        let mut node = self;
        // `/` itself has no segment.
        for segment in path.split('/').filter(|_| !path.is_empty()) {
            let place = node.place(segment.as_bytes()).unwrap_or_else(|place| {
                node.below.insert(place, (segment.into(), Self::default()));
                place
            });
            node = &mut node.below[place].1;
        }
        node.route.get_or_insert(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Source, load};

    /// Looks at every route, as the definition says.
    fn by_looking(routes: &[Route], path: &str) -> Option<usize> {
        let covers = |prefix: &str| match path.strip_prefix(prefix) {
            _ if prefix == "/" => path.starts_with('/'),
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        };
        routes.iter().position(|route| covers(&route.path))
    }

    fn by_tree(routes: &Routes, path: &str) -> Option<usize> {
        let found = routes.longest(path)?;
        routes.iter().position(|route| std::ptr::eq(route, found))
    }

    fn routes(paths: &[impl AsRef<str>]) -> Routes {
        let text = "backends.m1 = {}\nservices.ollama = {}\nschedule.default = \"m1\"\n";
        let environment = Environment::from_pairs([("", ""); 0]);
        let snapshot = load(&Source::new("routing.toml", text), &environment).unwrap();
        let route = |path: &str| Route {
            path: path.to_owned(),
            ..snapshot.routes[0].clone()
        };
        let list: Vec<_> = paths.iter().map(|path| route(path.as_ref())).collect();
        list.into()
    }

    #[test]
    fn the_longest_path_by_whole_segments_is_found() {
        let routes = routes(&["/", "/a", "/a/b/c", "/ab", "/b/c", "/a-b"]);
        let rows = [
            ("/", Some("/")),
            ("//", Some("/")),
            ("/a", Some("/a")),
            ("/a/", Some("/a")),
            ("/a//b/c", Some("/a")),
            ("/a/b", Some("/a")),
            ("/a/b/c", Some("/a/b/c")),
            ("/a/b/c/", Some("/a/b/c")),
            ("/a/b/cd", Some("/a")),
            ("/ab/c", Some("/ab")),
            ("/abc", Some("/")),
            ("/a-b/x", Some("/a-b")),
            ("/a.b", Some("/")),
            ("/b", Some("/")),
            ("/b/c/d", Some("/b/c")),
            ("/\u{3042}", Some("/")),
            ("*", None),
            ("", None),
            ("a", None),
        ];
        for (path, want) in rows {
            let got = routes.longest(path).map(|route| route.path.as_str());
            assert_eq!(got, want, "{path}");
        }
    }

    #[test]
    fn the_tree_finds_what_looking_at_every_route_finds() {
        // splitmix64: the same in every run.
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap() % below
        };
        // Few letters, so that paths meet; `-` and `.` sort before `/`, `0` and letters behind it.
        let mut path = |most: usize| {
            let letters = ["/", "/", "a", "b", "-", ".", "0", "%2F", "\u{3042}"];
            let length = random(most);
            let rest: String = (0..length)
                .map(|_| letters[random(letters.len())])
                .collect();
            format!("/{rest}")
        };
        let mut found = [0, 0];
        for _ in 0..300 {
            let mut paths: Vec<_> = (0..40).map(|_| path(6)).collect();
            paths.retain(|path| path.len() == 1 || !path.ends_with('/'));
            paths.sort();
            paths.dedup();
            let some = paths.len() / 2;
            let routes = routes(&paths[some..]);
            for asked in (0..200).map(|_| path(12)).chain(paths) {
                let want = by_looking(&routes, &asked);
                assert_eq!(by_tree(&routes, &asked), want, "{asked} {:?}", &*routes);
                found[usize::from(want.is_some())] += 1;
            }
        }
        assert!(found.iter().all(|count| *count > 5000), "{found:?}");
    }
}
