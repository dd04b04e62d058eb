//! The one table: what each call needs. A call without a row is refused, and tests fail for it: `core/tests/access_table.rs` reads the
//! .proto files, the hub's tests ask each call as somebody who may not.

use super::Role;

/// What a call costs and whether its failure is worth an entry in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers from what is known.
    Read,
    /// Changes something.
    Change,
    /// Reads for as long as the caller likes.
    Watch,
    /// An agent's stream.
    Agent,
}

/// Who may call at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody, without a proof.
    Anyone,
    /// Everybody who proved who he is, with or without a role.
    Authenticated,
    /// The agent of a cluster, for that cluster.
    Agent,
    /// Callers who have the role over something; the call itself checks whether that is what it touches.
    Role(Role),
    /// Callers who have the role over everything; checked before the call.
    HubRole(Role),
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// `package.Service/Method`.
    pub rpc: &'static str,
    /// Who may.
    pub who: Who,
    /// What it is.
    pub kind: Kind,
}

impl Need {
    /// The method's name, for metrics and logs.
    pub fn method(&self) -> &'static str {
        self.rpc.rsplit('/').next().unwrap_or(self.rpc)
    }
}

const fn row(rpc: &'static str, who: Who, kind: Kind) -> Need {
    Need { rpc, who, kind }
}

const VIEWER: Who = Who::Role(Role::Viewer);
const OPERATOR: Who = Who::Role(Role::Operator);
const ADMIN: Who = Who::Role(Role::Admin);

/// Every call of every service that the hub serves.
#[rustfmt::skip]
pub const TABLE: &[Need] = &[
    row("switchyard.api.v1.PolicyService/ApplyPolicy", ADMIN, Kind::Change),
    row("switchyard.api.v1.PolicyService/DeletePolicy", ADMIN, Kind::Change),
    row("switchyard.api.v1.PolicyService/SetWeights", OPERATOR, Kind::Change),
    row("switchyard.api.v1.PolicyService/FailbackPolicy", OPERATOR, Kind::Change),
    row("switchyard.api.v1.PolicyService/GetPolicy", VIEWER, Kind::Read),
    row("switchyard.api.v1.PolicyService/ListPolicies", VIEWER, Kind::Read),
    row("switchyard.api.v1.PolicyService/GetPlan", VIEWER, Kind::Read),
    row("switchyard.api.v1.PolicyService/ExplainPolicy", VIEWER, Kind::Read),
    row("switchyard.api.v1.PolicyService/WatchPolicies", VIEWER, Kind::Watch),
    row("switchyard.api.v1.ShiftService/CreateShift", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ShiftService/PauseShift", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ShiftService/ResumeShift", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ShiftService/ApproveShift", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ShiftService/PromoteShift", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ShiftService/AbortShift", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ShiftService/RollbackShift", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ShiftService/GetShift", VIEWER, Kind::Read),
    row("switchyard.api.v1.ShiftService/ListShifts", VIEWER, Kind::Read),
    row("switchyard.api.v1.ShiftService/WatchShift", VIEWER, Kind::Watch),
    row("switchyard.api.v1.SafetyService/ListGatingSwitches", VIEWER, Kind::Read),
    row("switchyard.api.v1.SafetyService/SetGatingSwitch", Who::HubRole(Role::Operator), Kind::Change),
    row("switchyard.api.v1.SafetyService/DeleteGatingSwitch", Who::HubRole(Role::Operator), Kind::Change),
    row("switchyard.api.v1.AuditService/ListAuditEntries", VIEWER, Kind::Read),
    row("switchyard.api.v1.AuditService/GetAuditHead", VIEWER, Kind::Read),
    row("switchyard.api.v1.ClusterService/ListClusters", VIEWER, Kind::Read),
    row("switchyard.api.v1.ClusterService/ListEndpoints", VIEWER, Kind::Read),
    row("switchyard.api.v1.ClusterService/WatchClusters", VIEWER, Kind::Watch),
    row("switchyard.api.v1.ClusterService/CordonCluster", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ClusterService/DrainCluster", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ClusterService/UncordonCluster", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ClusterService/DrillClusterLoss", OPERATOR, Kind::Change),
    row("switchyard.api.v1.ClusterService/RemoveCluster", ADMIN, Kind::Change),
    row("switchyard.api.v1.AccessService/WhoAmI", Who::Authenticated, Kind::Read),
    row("switchyard.api.v1.AccessService/CreateJoinToken", Who::HubRole(Role::Admin), Kind::Change),
    row("switchyard.api.v1.AccessService/ListJoinTokens", Who::HubRole(Role::Admin), Kind::Read),
    row("switchyard.api.v1.AccessService/RevokeJoinToken", Who::HubRole(Role::Admin), Kind::Change),
    row("switchyard.api.v1.AccessService/ListAgentCertificates", Who::HubRole(Role::Viewer), Kind::Read),
    row("switchyard.api.v1.AccessService/RevokeAgentCertificates", Who::HubRole(Role::Admin), Kind::Change),
    row("switchyard.api.v1.AccessService/CreateServiceToken", Who::HubRole(Role::Admin), Kind::Change),
    row("switchyard.api.v1.AccessService/ListServiceTokens", Who::HubRole(Role::Admin), Kind::Read),
    row("switchyard.api.v1.AccessService/RevokeServiceToken", Who::HubRole(Role::Admin), Kind::Change),
    row("switchyard.api.v1.AccessService/ListAuthorities", Who::HubRole(Role::Viewer), Kind::Read),
    row("switchyard.api.v1.AccessService/RotateAuthority", Who::HubRole(Role::Admin), Kind::Change),
    row("switchyard.agent.v1.AgentService/Session", Who::Agent, Kind::Agent),
    row("switchyard.agent.v1.PolicySourceService/SyncPolicies", Who::Agent, Kind::Agent),
    row("switchyard.agent.v1.ShiftSourceService/SyncShifts", Who::Agent, Kind::Agent),
    row("switchyard.agent.v1.TargetHealthService/WatchTargetHealth", Who::Agent, Kind::Agent),
    row("switchyard.agent.v1.EnrollmentService/Enroll", Who::Anyone, Kind::Change),
    row("switchyard.agent.v1.EnrollmentService/RenewCertificate", Who::Agent, Kind::Change),
    row("grpc.health.v1.Health/Check", Who::Anyone, Kind::Read),
    row("grpc.health.v1.Health/List", Who::Anyone, Kind::Read),
    row("grpc.health.v1.Health/Watch", Who::Authenticated, Kind::Watch),
    row("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Who::Authenticated, Kind::Watch),
];

/// The row of a call by its path, `/package.Service/Method`; none for a call that nobody may make.
pub fn need(path: &str) -> Option<&'static Need> {
    let rpc = path.strip_prefix('/')?;
    TABLE.iter().find(|need| need.rpc == rpc)
}
