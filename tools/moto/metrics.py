"""Puts the same calls of GetMetricData to the sandbox and to moto, with AWS's own Python client, and prints both answers.

The sandbox speaks one protocol only, the one of the AWS SDK for Rust (Smithy RPC v2 with CBOR); botocore speaks it too, and so
is a second reader of what the sandbox writes. moto does not, and is asked in JSON, which botocore takes for CloudWatch when it
may choose. What both have to know is read from the sandbox and put into moto first.

Standard input: {"sandbox": URL, "moto": URL, "region": REGION, "counts": [METRIC], "times": [METRIC], "groups": [DIMENSIONS],
"start": SECONDS, "end": SECONDS, "calls": [{...}]}. Standard output: {"put": NUMBER, "answers": [{"sandbox": ..., "moto": ...}]}.
"""

import json
import sys
from datetime import datetime, timezone
from typing import Any

import boto3
import botocore.model
from botocore.config import Config
from botocore.exceptions import ClientError

NAMESPACE = "AWS/ApplicationELB"
STATISTICS = ("Sum", "Minimum", "Maximum", "SampleCount")


def client(url: str, region: str, protocol: str) -> Any:
    order = botocore.model.PRIORITY_ORDERED_SUPPORTED_PROTOCOLS
    botocore.model.PRIORITY_ORDERED_SUPPORTED_PROTOCOLS = [protocol]
    try:
        made = boto3.session.Session().client(
            "cloudwatch",
            region_name=region,
            endpoint_url=url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"max_attempts": 0}),
        )
        if made.meta.service_model.resolved_protocol != protocol:
            raise RuntimeError(f"botocore does not take {protocol}")
        return made
    finally:
        botocore.model.PRIORITY_ORDERED_SUPPORTED_PROTOCOLS = order


def asked(client: Any, call: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = client.get_metric_data(**call)
    except ClientError as error:
        return {"error": error.response["Error"]["Code"]}
    results = [
        {
            "id": one["Id"],
            "label": one["Label"],
            "status": one["StatusCode"],
            "points": [[at.timestamp(), value] for at, value in zip(one["Timestamps"], one["Values"], strict=True)],
        }
        for one in answer["MetricDataResults"]
    ]
    return {"results": results}


def query(id: str, metric: str, dimensions: list[dict[str, str]], stat: str) -> dict[str, Any]:
    described = {"Namespace": NAMESPACE, "MetricName": metric, "Dimensions": dimensions}
    return {"Id": id, "Label": metric, "MetricStat": {"Metric": described, "Period": 1, "Stat": stat}}


def copy(sandbox: Any, moto: Any, told: dict[str, Any]) -> int:
    """Puts every second of the sandbox's numbers into moto; gives how many points there were."""
    put = 0
    for dimensions in told["groups"]:
        for metric in told["counts"] + told["times"]:
            queries = [query(stat.lower(), metric, dimensions, stat) for stat in STATISTICS]
            call = {"StartTime": told["start"], "EndTime": told["end"], "MetricDataQueries": queries}
            answer = asked(sandbox, call)
            series = {one["id"]: dict(map(tuple, one["points"])) for one in answer["results"]}
            for at in series["sum"]:
                point = {"MetricName": metric, "Dimensions": dimensions, "Timestamp": datetime.fromtimestamp(at, timezone.utc)}
                if metric in told["counts"]:
                    # A count is as many ones.
                    point |= {"Values": [1.0], "Counts": [series["sum"][at]]}
                else:
                    point |= {"StatisticValues": {stat: series[stat.lower()][at] for stat in STATISTICS}}
                moto.put_metric_data(Namespace=NAMESPACE, MetricData=[point])
                put += 1
    return put


def main() -> None:
    told = json.load(sys.stdin)
    sandbox = client(told["sandbox"], told["region"], "smithy-rpc-v2-cbor")
    moto = client(told["moto"], told["region"], "json")
    put = copy(sandbox, moto, told)
    answers = [{"sandbox": asked(sandbox, call), "moto": asked(moto, call)} for call in told["calls"]]
    json.dump({"put": put, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main()
