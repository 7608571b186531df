from schemathesis import APIOperation as APIOperation
