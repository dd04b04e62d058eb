//! The table of routes: which method and path is which call of the API. It is resolved once against the descriptors of the .proto
//! files, so that a field that is renamed there, or a call that is forgotten here, fails a test and not a caller. Pure.

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MethodDescriptor};
use switchyard_proto::FILE_DESCRIPTOR_SET;

use super::path::{BadTemplate, Template};

/// The package whose services are served.
pub const PACKAGE: &str = "switchyard.api.v1";
/// What stands in the query for a field of a field: `policy.namespace`. Deeper ones need a body.
const QUERY_DEPTH: usize = 2;

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// GET and DELETE take fields from the query, POST and PUT from a JSON body.
    pub http: &'static str,
    /// The template of the path.
    pub path: &'static str,
    /// The call, `Service/Method`.
    pub rpc: &'static str,
    /// Its name in the OpenAPI document.
    pub operation: &'static str,
}

const fn bind(http: &'static str, path: &'static str, rpc: &'static str, operation: &'static str) -> Binding {
    Binding { http, path, rpc, operation }
}

/// Every call of the API.
#[rustfmt::skip]
pub const BINDINGS: &[Binding] = &[
    bind("POST", "/v1/policies:apply", "PolicyService/ApplyPolicy", "ApplyPolicy"),
    bind("GET", "/v1/policies", "PolicyService/ListPolicies", "ListPolicies"),
    bind("GET", "/v1/policies:watch", "PolicyService/WatchPolicies", "WatchPolicies"),
    bind("GET", "/v1/namespaces/{namespace}/policies", "PolicyService/ListPolicies", "ListPoliciesOfNamespace"),
    bind("GET", "/v1/namespaces/{policy.namespace}/policies/{policy.name}", "PolicyService/GetPolicy", "GetPolicy"),
    bind("DELETE", "/v1/namespaces/{policy.namespace}/policies/{policy.name}", "PolicyService/DeletePolicy", "DeletePolicy"),
    bind("POST", "/v1/namespaces/{policy.namespace}/policies/{policy.name}:setWeights", "PolicyService/SetWeights", "SetWeights"),
    bind("GET", "/v1/namespaces/{policy.namespace}/policies/{policy.name}:watch", "PolicyService/WatchPolicies", "WatchPolicy"),
    bind("GET", "/v1/namespaces/{policy.namespace}/policies/{policy.name}:plan", "PolicyService/GetPlan", "GetPlanOfPolicy"),
    bind("GET", "/v1/namespaces/{policy.namespace}/policies/{policy.name}:explain", "PolicyService/ExplainPolicy", "ExplainPolicy"),
    bind("POST", "/v1/namespaces/{policy.namespace}/policies/{policy.name}:failback", "PolicyService/FailbackPolicy", "FailbackPolicy"),
    bind("POST", "/v1/namespaces/{policy.namespace}/policies/{policy.name}:rollback", "ShiftService/RollbackShift", "RollbackPolicy"),
    bind("GET", "/v1/plan", "PolicyService/GetPlan", "GetPlan"),
    bind("GET", "/v1/clusters", "ClusterService/ListClusters", "ListClusters"),
    bind("GET", "/v1/clusters:watch", "ClusterService/WatchClusters", "WatchClusters"),
    bind("GET", "/v1/clusters/{cluster}:watch", "ClusterService/WatchClusters", "WatchCluster"),
    bind("POST", "/v1/clusters/{cluster}:cordon", "ClusterService/CordonCluster", "CordonCluster"),
    bind("POST", "/v1/clusters/{cluster}:drain", "ClusterService/DrainCluster", "DrainCluster"),
    bind("POST", "/v1/clusters/{cluster}:uncordon", "ClusterService/UncordonCluster", "UncordonCluster"),
    bind("POST", "/v1/clusters/{cluster}:remove", "ClusterService/RemoveCluster", "RemoveCluster"),
    bind("POST", "/v1/clusters/{cluster}:drillLoss", "ClusterService/DrillClusterLoss", "DrillClusterLoss"),
    bind("GET", "/v1/endpoints", "ClusterService/ListEndpoints", "ListEndpoints"),
    bind("POST", "/v1/shifts", "ShiftService/CreateShift", "CreateShift"),
    bind("GET", "/v1/shifts", "ShiftService/ListShifts", "ListShifts"),
    bind("GET", "/v1/shifts/{id}", "ShiftService/GetShift", "GetShift"),
    bind("GET", "/v1/shifts/{id}:watch", "ShiftService/WatchShift", "WatchShift"),
    bind("POST", "/v1/shifts/{id}:pause", "ShiftService/PauseShift", "PauseShift"),
    bind("POST", "/v1/shifts/{id}:resume", "ShiftService/ResumeShift", "ResumeShift"),
    bind("POST", "/v1/shifts/{id}:approve", "ShiftService/ApproveShift", "ApproveShift"),
    bind("POST", "/v1/shifts/{id}:promote", "ShiftService/PromoteShift", "PromoteShift"),
    bind("POST", "/v1/shifts/{id}:abort", "ShiftService/AbortShift", "AbortShift"),
    bind("POST", "/v1/shifts/{id}:rollback", "ShiftService/RollbackShift", "RollbackShift"),
    bind("GET", "/v1/gating-switches", "SafetyService/ListGatingSwitches", "ListGatingSwitches"),
    bind("PUT", "/v1/gating-switches/{name}", "SafetyService/SetGatingSwitch", "SetGatingSwitch"),
    bind("DELETE", "/v1/gating-switches/{name}", "SafetyService/DeleteGatingSwitch", "DeleteGatingSwitch"),
    bind("GET", "/v1/audit", "AuditService/ListAuditEntries", "ListAuditEntries"),
    bind("GET", "/v1/audit:head", "AuditService/GetAuditHead", "GetAuditHead"),
    bind("GET", "/v1/whoami", "AccessService/WhoAmI", "WhoAmI"),
    bind("POST", "/v1/join-tokens", "AccessService/CreateJoinToken", "CreateJoinToken"),
    bind("GET", "/v1/join-tokens", "AccessService/ListJoinTokens", "ListJoinTokens"),
    bind("POST", "/v1/join-tokens/{id}:revoke", "AccessService/RevokeJoinToken", "RevokeJoinToken"),
    bind("GET", "/v1/agent-certificates", "AccessService/ListAgentCertificates", "ListAgentCertificates"),
    bind("POST", "/v1/agent-certificates:revoke", "AccessService/RevokeAgentCertificates", "RevokeAgentCertificates"),
    bind("POST", "/v1/service-tokens", "AccessService/CreateServiceToken", "CreateServiceToken"),
    bind("GET", "/v1/service-tokens", "AccessService/ListServiceTokens", "ListServiceTokens"),
    bind("POST", "/v1/service-tokens/{name}:revoke", "AccessService/RevokeServiceToken", "RevokeServiceToken"),
    bind("GET", "/v1/authorities", "AccessService/ListAuthorities", "ListAuthorities"),
    bind("POST", "/v1/authorities:rotate", "AccessService/RotateAuthority", "RotateAuthority"),
];

/// Why the table does not fit the descriptors; a defect, found by the tests.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The descriptors that are built in cannot be read.
    #[error("the descriptors of the API cannot be read")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// A path of the table.
    #[error(transparent)]
    Template(#[from] BadTemplate),
    /// A call that there is not.
    #[error("there is no call {0} in {PACKAGE}")]
    NoCall(&'static str),
    /// A field that there is not.
    #[error("{path} names the field {field:?}, which the request of the call does not have")]
    NoField {
        /// The template.
        path: &'static str,
        /// The field.
        field: String,
    },
}

/// A field of a request, or of a field of it.
#[derive(Clone, Debug)]
pub struct FieldPath {
    /// In JSON, such as `policy.namespace` or `pageSize`.
    pub json: String,
    /// As in the .proto files, such as `page_size`; taken as well.
    pub proto: String,
    /// From the request to the field.
    pub steps: Vec<FieldDescriptor>,
}

impl FieldPath {
    fn of(steps: Vec<FieldDescriptor>) -> Self {
        let join = |name: fn(&FieldDescriptor) -> &str| steps.iter().map(name).collect::<Vec<_>>().join(".");
        Self { json: join(FieldDescriptor::json_name), proto: join(FieldDescriptor::name), steps }
    }

    /// The field itself.
    ///
    /// # Panics
    /// Never: there is at least one step.
    pub fn last(&self) -> &FieldDescriptor {
        self.steps.last().expect("a path of a field has at least one step")
    }
}

/// A line of the table with what the descriptors say about it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The line.
    pub binding: &'static Binding,
    /// Its path.
    pub template: Template,
    /// The call.
    pub method: MethodDescriptor,
    /// The fields that the path gives, in its order.
    pub path_fields: Vec<FieldPath>,
    /// The fields that the query may give; none with a body.
    pub query_fields: Vec<FieldPath>,
    /// The call's path in gRPC.
    pub grpc_path: String,
}

impl Route {
    /// True when the request has a JSON body.
    pub fn has_body(&self) -> bool {
        matches!(self.binding.http, "POST" | "PUT")
    }
}

/// What a method and a path lead to.
#[derive(Debug)]
pub enum Found<'t, 'p> {
    /// A call, and the texts of the path's fields, still encoded.
    Route(&'t Route, Vec<&'p str>),
    /// The path is known with these other methods only.
    OtherMethod(Vec<&'static str>),
    /// No such path.
    Nothing,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Every route, in the order of [`BINDINGS`].
    pub routes: Vec<Route>,
    /// The descriptors.
    pub pool: DescriptorPool,
}

impl Table {
    /// Resolves the table.
    ///
    /// # Errors
    /// [`TableError`] when table and descriptors do not fit: a defect.
    pub fn new() -> Result<Self, TableError> {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(TableError::Descriptors)?;
        let routes = BINDINGS.iter().map(|binding| resolve(&pool, binding)).collect::<Result<_, _>>()?;
        Ok(Self { routes, pool })
    }

    /// The route of a request.
    pub fn find<'p>(&self, http: &str, path: &'p str) -> Found<'_, 'p> {
        let mut others = Vec::new();
        for route in &self.routes {
            match route.template.matched(path) {
                Some(values) if route.binding.http == http => return Found::Route(route, values),
                Some(_) => others.push(route.binding.http),
                None => {}
            }
        }
        if others.is_empty() { Found::Nothing } else { Found::OtherMethod(others) }
    }
}

fn resolve(pool: &DescriptorPool, binding: &'static Binding) -> Result<Route, TableError> {
    let no_call = || TableError::NoCall(binding.rpc);
    let (service, method) = binding.rpc.split_once('/').ok_or_else(no_call)?;
    let service = pool.get_service_by_name(&format!("{PACKAGE}.{service}")).ok_or_else(no_call)?;
    let method = service.methods().find(|found| found.name() == method).ok_or_else(no_call)?;
    let template = Template::parse(binding.path)?;
    let mut path_fields = Vec::new();
    for field in template.fields() {
        let mut steps: Vec<FieldDescriptor> = Vec::new();
        for name in field.split('.') {
            let message = steps.last().map_or(Some(method.input()), |step| step.kind().as_message().cloned());
            let step = message.and_then(|message| message.get_field_by_name(name));
            steps.push(step.ok_or_else(|| TableError::NoField { path: binding.path, field: field.to_owned() })?);
        }
        path_fields.push(FieldPath::of(steps));
    }
    let mut route = Route {
        binding,
        template,
        path_fields,
        query_fields: Vec::new(),
        grpc_path: format!("/{}/{}", method.parent_service().full_name(), method.name()),
        method,
    };
    if !route.has_body() {
        let mut found = Vec::new();
        leaves(&route, &[], &mut found);
        route.query_fields = found;
    }
    Ok(route)
}

/// Every field that one text can hold and that the path does not give.
fn leaves(route: &Route, above: &[FieldDescriptor], found: &mut Vec<FieldPath>) {
    let message = above.last().map_or(Some(route.method.input()), |step| step.kind().as_message().cloned());
    for field in message.iter().flat_map(|message| message.fields()) {
        let mut steps = above.to_vec();
        steps.push(field.clone());
        match field.kind() {
            _ if field.is_map() => {}
            Kind::Message(message) if message.full_name() != TIMESTAMP => {
                if !field.is_list() && steps.len() < QUERY_DEPTH {
                    leaves(route, &steps, found);
                }
            }
            _ => {
                let path = FieldPath::of(steps);
                if route.path_fields.iter().all(|taken| taken.proto != path.proto) {
                    found.push(path);
                }
            }
        }
    }
}

/// A message that is one text in JSON.
pub const TIMESTAMP: &str = "google.protobuf.Timestamp";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn table() -> Table {
        Table::new().unwrap()
    }

    #[test]
    fn every_call_of_the_api_has_a_route() {
        let table = table();
        let ours = table.pool.services().filter(|service| service.package_name() == PACKAGE);
        let calls = ours.flat_map(|service| {
            let service = service.name().to_owned();
            service_methods(&table, &service).into_iter().map(move |method| format!("{service}/{method}"))
        });
        let calls: BTreeSet<String> = calls.collect();
        let bound: BTreeSet<String> = BINDINGS.iter().map(|binding| binding.rpc.to_owned()).collect();
        assert_eq!(calls, bound);
        assert!(calls.len() >= 41, "{calls:?}");
    }

    fn service_methods(table: &Table, service: &str) -> Vec<String> {
        let service = table.pool.get_service_by_name(&format!("{PACKAGE}.{service}")).unwrap();
        service.methods().map(|method| method.name().to_owned()).collect()
    }

    #[test]
    fn no_agents_call_can_be_reached() {
        assert!(table().routes.iter().all(|route| route.grpc_path.starts_with("/switchyard.api.v1.")));
    }

    #[test]
    fn operations_and_pairs_of_method_and_path_are_unique() {
        let names: BTreeSet<_> = BINDINGS.iter().map(|binding| binding.operation).collect();
        assert_eq!(names.len(), BINDINGS.len());
        let pairs: BTreeSet<_> = BINDINGS.iter().map(|binding| (binding.http, binding.path)).collect();
        assert_eq!(pairs.len(), BINDINGS.len());
        for binding in BINDINGS {
            assert!(["GET", "POST", "PUT", "DELETE"].contains(&binding.http), "{binding:?}");
        }
    }

    #[test]
    fn calls_without_a_body_give_every_field_by_path_or_query() {
        for route in table().routes.iter().filter(|route| !route.has_body()) {
            let given = |name: &str| {
                let of = |path: &FieldPath| path.steps[0].name() == name;
                route.path_fields.iter().any(of) || route.query_fields.iter().any(of)
            };
            for field in route.method.input().fields() {
                assert!(given(field.name()), "{}: {}", route.binding.operation, field.name());
            }
        }
    }

    #[test]
    fn a_path_with_another_method_is_told_from_one_that_there_is_not() {
        let table = table();
        let found = table.find("GET", "/v1/namespaces/shop/policies/a%20b");
        assert!(
            matches!(&found, Found::Route(route, values)
            if route.binding.operation == "GetPolicy" && *values == ["shop", "a%20b"]),
            "{found:?}"
        );
        let found = table.find("PATCH", "/v1/namespaces/shop/policies/web");
        assert!(matches!(&found, Found::OtherMethod(allowed) if *allowed == ["GET", "DELETE"]), "{found:?}");
        for path in ["/v1/shifts/x:unknown", "/v2/shifts", "/v1/policies/", "/v1/../v1/policies", "/metrics", "*"] {
            assert!(matches!(table.find("GET", path), Found::Nothing), "{path}");
        }
        let found = table.find("GET", "/v1/shifts/x");
        let Found::Route(route, _) = found else { panic!("{found:?}") };
        assert_eq!(route.grpc_path, "/switchyard.api.v1.ShiftService/GetShift");
    }

    #[test]
    fn fields_of_the_query_are_named_as_in_json() {
        let table = table();
        let Found::Route(route, _) = table.find("GET", "/v1/audit") else { panic!("no route") };
        let names: Vec<_> = route.query_fields.iter().map(|field| field.json.as_str()).collect();
        for name in ["namespace", "policy.namespace", "policy.name", "shiftId", "since", "oldestFirst", "pageSize"] {
            assert!(names.contains(&name), "{name} is missing: {names:?}");
        }
        let Found::Route(route, _) = table.find("DELETE", "/v1/namespaces/a/policies/b") else { panic!("no route") };
        let names: Vec<_> = route.query_fields.iter().map(|field| field.json.as_str()).collect();
        assert_eq!(
            names,
            ["requestId", "expectedVersion", "dryRun", "reason"],
            "what the path gives is not asked for again"
        );
    }
}
