"""Tests of authority.py: python -m unittest, in this folder."""

import unittest

from authority import Question, allows, like


def policy(**statement):
    return [{"Statement": [{"Effect": "Allow", "Action": "s:Do", "Resource": "*"} | statement]}]


class Statements(unittest.TestCase):
    def test_nothing_said_means_no_and_a_deny_wins(self):
        question = Question("s:Do", "arn:x")
        self.assertFalse(allows([], question))
        self.assertTrue(allows(policy(), question))
        self.assertFalse(allows(policy() + policy(Effect="Deny", Resource="arn:*"), question))
        self.assertTrue(allows(policy() + policy(Effect="Deny", Resource="arn:y*"), question))

    def test_actions_and_resources_have_to_match_whole(self):
        self.assertTrue(allows(policy(Action=["s:Other", "S:d*"]), Question("s:Do", "*")))
        self.assertFalse(allows(policy(Action="s:D"), Question("s:Do", "*")))
        self.assertFalse(allows(policy(Resource="arn:a"), Question("s:Do", "arn:ab")))
        # A reading call has no resource, and a pattern of ARNs does not match it.
        self.assertFalse(allows(policy(Resource="arn:*"), Question("s:Do", "*")))

    def test_wildcards_are_those_of_aws_and_dots_are_dots(self):
        self.assertTrue(like("a*c?", "a/b/cd"))
        self.assertFalse(like("a.c", "abc"))
        self.assertFalse(like("[ab]", "a"))

    def test_what_is_not_known_is_an_error(self):
        question = Question("s:Do", "*")
        for odd in (
            {"NotResource": "x"},
            {"Condition": {"StringEquals": {"aws:SourceIp": "x"}}},
            {"Condition": {"IpAddress": {"aws:TagKeys": "x"}}},
        ):
            with self.assertRaises(ValueError):
                allows(policy(**odd), question)


class Conditions(unittest.TestCase):
    def check(self, condition, **context):
        return allows(policy(Condition=condition), Question("s:Do", "*", **context))

    def test_a_tag_that_is_not_there_does_not_match(self):
        hub = {"StringEquals": {"aws:ResourceTag/a.b/hub": "one"}}
        self.assertTrue(self.check(hub, resource_tags={"a.b/hub": "one"}))
        self.assertFalse(self.check(hub, resource_tags={"a.b/hub": "two"}))
        self.assertFalse(self.check(hub, resource_tags={"a.b/Hub": "one"}))
        self.assertFalse(self.check(hub, request_tags={"a.b/hub": "one"}))

    def test_several_values_are_alternatives_and_several_conditions_are_not(self):
        both = {"StringEquals": {"aws:RequestTag/a": ["1", "2"], "elasticloadbalancing:CreateAction": "Make"}}
        self.assertTrue(self.check(both, request_tags={"a": "2"}, create_action="Make"))
        self.assertFalse(self.check(both, request_tags={"a": "2"}))
        self.assertFalse(self.check(both, request_tags={"a": "3"}, create_action="Make"))

    def test_all_keys_of_a_request_are_looked_at(self):
        only = {"ForAllValues:StringEquals": {"aws:TagKeys": ["a"]}, "Null": {"aws:TagKeys": "false"}}
        self.assertTrue(self.check(only, request_tags={"a": "1"}))
        self.assertFalse(self.check(only, request_tags={"a": "1", "b": "1"}))
        self.assertFalse(self.check(only))


if __name__ == "__main__":
    unittest.main()
