"""moto's server, with the one thing it lacks for judging a policy: it tells which resource an ELBv2 call is about.

moto keeps accounts, users, roles, policies and the load balancers, and it verifies signatures. But for ELBv2 it asks a
policy about the resource "*" only, and it does not look at conditions. So before every ELBv2 call the questions that AWS
asks (AWS: Service Authorization Reference, Elastic Load Balancing V2) are put to `authority.py`: each resource of the call
with its tags and the tags of the request, and AddTags once more when something is created with tags.

A call with the access key OPEN_KEY is not judged: with it the tests furnish their accounts. Other services (IAM, STS, EC2)
are never judged. Arguments are those of moto's own server (-H, -p).
"""

from typing import Any
from xml.sax.saxutils import escape

import authority
from moto.core.exceptions import AccessDeniedError, _RESTError
from moto.elbv2.models import elbv2_backends
from moto.elbv2.responses import ELBV2Response
from moto.iam.access_control import IAMPolicy, IAMRequest
from moto.server import main
from werkzeug.exceptions import HTTPException

OPEN_KEY = "test"
SERVICE = "elasticloadbalancing"
NAMESPACE = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"


class Request(IAMRequest):
    """Who asks: found by moto from the access key, the signature verified by moto."""

    def policies(self) -> list[dict[str, Any]]:
        return [IAMPolicy(policy)._policy_json for policy in self._access_key.collect_policies()]

    def require(self, question: authority.Question) -> None:
        if authority.allows(self.policies(), question):
            return
        action = question.action
        # The words of AWS, which name the resource and the reason after the action.
        raise AccessDeniedError(
            user_arn=self._access_key.arn,
            action=f"{action} on resource: {question.resource} because no identity-based policy allows the {action} action",
        )


def tags_of(response: ELBV2Response, arn: str) -> dict[str, str]:
    backend = elbv2_backends[response.current_account][response.region]
    return dict(backend.tagging_service.get_tag_dict_for_resource(arn))


def made_arn(response: ELBV2Response, action: str, params: dict[str, Any]) -> str | None:
    """The ARN that the call will make; its last part is not known yet, and no policy can name it."""
    unknown = "0123456789abcdef"
    if action == "CreateTargetGroup":
        prefix = f"arn:{response.partition}:{SERVICE}:{response.region}:{response.current_account}"
        return f"{prefix}:targetgroup/{params.get('Name')}/{unknown}"
    if action == "CreateRule":
        return f"{params.get('ListenerArn')}/{unknown}".replace(":listener/", ":listener-rule/", 1)
    return None


def resources(action: str, params: dict[str, Any], made: str | None) -> list[str]:
    """The resources that AWS authorizes a call for. Reading calls have none, so that only "*" allows them."""
    if action == "CreateRule":
        return [params["ListenerArn"]]
    if made is not None:
        return [made]
    if action in ("AddTags", "RemoveTags"):
        return list(params["ResourceArns"])
    if action == "SetRulePriorities":
        return [pair["RuleArn"] for pair in params["RulePriorities"]]
    if action.startswith("Describe"):
        return ["*"]
    for name in ("RuleArn", "TargetGroupArn", "ListenerArn", "LoadBalancerArn"):
        if name in params:
            return [params[name]]
    return ["*"]


def questions(response: ELBV2Response, action: str) -> list[authority.Question]:
    params = response._get_params()
    made = made_arn(response, action, params)
    request_tags = {tag["Key"]: tag.get("Value", "") for tag in params.get("Tags") or []}
    asked = [
        authority.Question(
            action=f"{SERVICE}:{action}",
            resource=arn,
            resource_tags=tags_of(response, arn),
            request_tags=request_tags,
        )
        for arn in resources(action, params, made)
    ]
    if made is not None and request_tags:
        asked.append(
            authority.Question(
                action=f"{SERVICE}:AddTags",
                resource=made,
                request_tags=request_tags,
                create_action=action,
            )
        )
    return asked


def query_error(code: str, message: str) -> str:
    """An error of the query protocol: moto writes those of IAM in the form of another protocol, in which no SDK finds the code."""
    fields = f"<Type>Sender</Type><Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    return f'<ErrorResponse xmlns="{NAMESPACE}"><Error>{fields}</Error><RequestId>not-given</RequestId></ErrorResponse>'


def judge(response: ELBV2Response, resource: str = "*") -> None:
    if f"Credential={OPEN_KEY}/" in response.headers.get("Authorization", ""):
        return
    try:
        check(response, response._get_action())
    except _RESTError as error:
        error.description = query_error(error.error_type, error.message)
        raise


def check(response: ELBV2Response, action: str) -> None:
    request = Request(
        account_id=response.current_account,
        method=response.method,
        path=response.raw_path,
        data=response.data,
        body=response.raw_body,
        headers=response.headers,
        action=action,
    )
    request.check_signature()
    try:
        for question in questions(response, action):
            request.require(question)
    except KeyError as missing:
        raise HTTPException(f"the judge needs the parameter {missing} of {action}") from missing


ELBV2Response._authenticate_and_authorize_normal_action = judge

if __name__ == "__main__":
    main()
