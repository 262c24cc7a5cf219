//! The words of the house: ids, entities, their lives, requests, answers and limits.
//!
//! Pure: nothing here reads a clock, a file, a socket or the environment, so server, client, node and tests can
//! share every type. What a type accepts from outside is checked here (`check`), once, for all of them.
#![forbid(unsafe_code)]

pub mod analysis;
pub mod analyzer;
pub mod blob;
pub mod change;
pub mod chunk;
pub mod digest;
pub mod dump;
pub mod error;
pub mod execution;
pub mod health;
pub mod id;
pub mod image;
pub mod limits;
pub mod log;
pub mod node;
pub mod pack;
pub mod page;
pub mod parcel;
pub mod permission;
pub mod reference;
pub mod report;
pub mod sandbox;
pub mod shape;
pub mod signature;
pub mod tenant;
pub mod token;
pub mod user;

pub use blob::{Blob, Purpose};
pub use change::{Change, ChangeQuery, Noun};
pub use chunk::{Chunk, ChunkPage, ChunkQuery, Content, Stream};
pub use digest::Digest;
pub use dump::{Dump, DumpState, NewDump};
pub use error::{ApiError, ErrorKind};
pub use execution::{
    Class, Execution, ExecutionQuery, ExecutionState, Input, Lease, LimitSet, Limits, NewExecution, Origin, OriginKind,
    Outcome, Recipe, Retry, SetUpFault, Usage,
};
pub use id::{DumpId, ExecutionId, ImageId, NodeId, RequestId, SessionId, TenantId, TokenId, UserId};
pub use image::{
    Image, ImageConfig, ImageQuery, ImageSource, ImageState, Manifest, NewImage, NewRegistry, Platform, Registry,
};
pub use node::{NewNode, Node, NodeQuery, NodeState, Offer, Sync, SyncAnswer};
pub use page::{Page, PageQuery};
pub use permission::{Role, Scope};
pub use reference::{Reference, ReferenceError};
pub use report::{DumpKind, Report, Severity};
pub use sandbox::{Access, Mount, Network, OWN_RUNTIME, Sandbox, SandboxKind};
pub use shape::Shape;
pub use signature::{Explanation, Proposal, SignatureId, SignatureText, Stack, StackFrame};
pub use tenant::{NewTenant, Tenant, TenantChange};
pub use token::{NewToken, Token, TokenIssued};
pub use user::{NewUser, User, UserChange, UserState, WhoAmI};
