//! Nodes: join and sync, as a node does; list, look, cordon, drain and remove, as its keeper does.

use crate::request::{MAX_ANSWER, Replay};
use crate::{Client, ClientError};
use model::limits::MAX_HOLD;
use model::node::Cordon;
use model::{NewNode, Node, NodeId, NodeQuery, Page, Sync, SyncAnswer};
use reqwest::Method;
use std::time::Duration;

impl Client {
    /// Introduces a node and opens its session; whatever an older session of it held is lost.
    pub async fn node_join(&self, new: &NewNode) -> Result<Node, ClientError> {
        self.create("/v1/nodes", new).await
    }

    /// Tells all that a node holds and what has happened, and learns what it is to do. It is sent once: after a failure
    /// the node says anew what is true then.
    pub async fn node_sync(&self, id: NodeId, sync: &Sync) -> Result<SyncAnswer, ClientError> {
        let within = MAX_ANSWER + Duration::from_millis(sync.wait_ms).min(MAX_HOLD);
        let path = format!("/v1/nodes/{id}/sync");
        self.json(Replay::Never, || self.request(Method::POST, &path).json(sync).timeout(within)).await
    }

    /// Returns a page of nodes, newest first.
    pub async fn node_list(&self, query: &NodeQuery) -> Result<Page<Node>, ClientError> {
        self.get("/v1/nodes", query).await
    }

    /// Returns a node, by its id or name.
    pub async fn node_get(&self, node: &str) -> Result<Node, ClientError> {
        self.get(&format!("/v1/nodes/{}", crate::request::segment(node)), &()).await
    }

    /// Keeps a node from taking anything new.
    pub async fn node_cordon(&self, node: &str, cordon: &Cordon) -> Result<Node, ClientError> {
        self.act(Method::POST, &format!("/v1/nodes/{}/cordon", crate::request::segment(node)), Some(cordon)).await
    }

    /// Lifts what keeps a node from taking anything new.
    pub async fn node_uncordon(&self, node: &str) -> Result<Node, ClientError> {
        self.act(Method::POST, &format!("/v1/nodes/{}/uncordon", crate::request::segment(node)), None::<&()>).await
    }

    /// Has a node finish what it holds and leave.
    pub async fn node_drain(&self, node: &str) -> Result<Node, ClientError> {
        self.act(Method::POST, &format!("/v1/nodes/{}/drain", crate::request::segment(node)), None::<&()>).await
    }

    /// Removes a node that is lost or has left.
    pub async fn node_remove(&self, node: &str) -> Result<Node, ClientError> {
        self.act(Method::DELETE, &format!("/v1/nodes/{}", crate::request::segment(node)), None::<&()>).await
    }
}
