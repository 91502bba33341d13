"""What the manifests of `sidecar/` may hold: schemas of our own, in JSON Schema's words.

They know the keys that the manifests use, with the types and limits that the platforms document, and
refuse every other key: a typo does not pass. They are not the platforms' own schemas.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def table(required: str = "", /, **properties: Schema) -> Schema:
    """An object with these keys and no others; a key that is a Python word ends in `_`."""
    named = {name.rstrip("_"): schema for name, schema in properties.items()}
    return {
        "type": "object",
        "properties": named,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def one_of(*words: str) -> Schema:
    return {"enum": list(words)}


def whole(least: int, most: int) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most}


def map_of(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


TEXT: Schema = {"type": "string", "minLength": 1}
NAME: Schema = {"type": "string", "pattern": "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"}
PORT = whole(1, 65535)
TRUE_OR_FALSE = one_of("true", "false")

# --- Cloud Run: serving.knative.dev/v1 -----------------------------------------------------------

# failureThreshold times periodSeconds is at most 240 s in the older documentation, 600 s in newer.
PROBE = table(
    "httpGet",
    httpGet=table("path port", path={"type": "string", "pattern": "^/"}, port=PORT),
    periodSeconds=whole(1, 240),
    failureThreshold=whole(1, 240),
    timeoutSeconds=whole(1, 240),
    initialDelaySeconds=whole(0, 240),
)
VARIABLE = table(
    "name",
    name=TEXT,
    value=TEXT,
    valueFrom=table("secretKeyRef", secretKeyRef=table("name key", name=TEXT, key=TEXT)),
)
CLOUD_RUN = table(
    "apiVersion kind metadata spec",
    apiVersion=one_of("serving.knative.dev/v1"),
    kind=one_of("Service"),
    metadata=table("name", name=NAME),
    spec=table(
        "template",
        template=table(
            "spec",
            metadata=table(
                annotations=table(
                    **{
                        "run.googleapis.com/execution-environment": one_of("gen1", "gen2"),
                        "run.googleapis.com/cpu-throttling": TRUE_OR_FALSE,
                        "run.googleapis.com/startup-cpu-boost": TRUE_OR_FALSE,
                        "autoscaling.knative.dev/minScale": {"type": "string", "pattern": "^[0-9]+$"},
                        "autoscaling.knative.dev/maxScale": {"type": "string", "pattern": "^[0-9]+$"},
                        "run.googleapis.com/container-dependencies": TEXT,
                    }
                )
            ),
            spec=table(
                "containers",
                containerConcurrency=whole(1, 1000),
                timeoutSeconds=whole(1, 3600),
                serviceAccountName=TEXT,
                containers=many(
                    table(
                        "name image",
                        name=NAME,
                        image=TEXT,
                        args=many(TEXT),
                        ports=many(table("containerPort", name=one_of("http1", "h2c"), containerPort=PORT)),
                        env=many(VARIABLE),
                        resources=table("limits", limits=table(cpu=TEXT, memory=TEXT)),
                        startupProbe=PROBE,
                        livenessProbe=PROBE,
                        volumeMounts=many(table("name mountPath", name=NAME, mountPath=TEXT)),
                    )
                ),
                volumes=many(
                    table(
                        "name",
                        name=NAME,
                        emptyDir=table("medium", medium=one_of("Memory"), sizeLimit=TEXT),
                        secret=table(
                            "secretName", secretName=NAME, items=many(table("key path", key=TEXT, path=TEXT))
                        ),
                        csi=table(
                            "driver",
                            driver=one_of("gcsfuse.run.googleapis.com"),
                            readOnly={"type": "boolean"},
                            volumeAttributes=table("bucketName", bucketName=TEXT, mountOptions=TEXT),
                        ),
                    )
                ),
            ),
        ),
    ),
)

# --- ECS: RegisterTaskDefinition on Fargate ------------------------------------------------------

PAIR = table("name value", name=TEXT, value=TEXT)
ECS = table(
    "family requiresCompatibilities networkMode cpu memory executionRoleArn containerDefinitions",
    family=TEXT,
    requiresCompatibilities={"const": ["FARGATE"]},
    networkMode=one_of("awsvpc"),
    runtimePlatform=table(
        cpuArchitecture=one_of("X86_64", "ARM64"), operatingSystemFamily=one_of("LINUX")
    ),
    cpu=one_of("256", "512", "1024", "2048", "4096"),
    memory={"type": "string", "pattern": "^[0-9]+$"},
    executionRoleArn=TEXT,
    taskRoleArn=TEXT,
    volumes=many(table("name", name=TEXT)),
    containerDefinitions=many(
        table(
            "name image essential logConfiguration",
            name=TEXT,
            image=TEXT,
            essential={"type": "boolean"},
            user=TEXT,
            command=many(TEXT),
            portMappings=many(table("containerPort", containerPort=PORT, protocol=one_of("tcp"))),
            environment=many(PAIR),
            secrets=many(table("name valueFrom", name=TEXT, valueFrom=TEXT)),
            dependsOn=many(
                table(
                    "containerName condition",
                    containerName=TEXT,
                    condition=one_of("START", "COMPLETE", "SUCCESS", "HEALTHY"),
                )
            ),
            healthCheck=table(
                "command",
                command=many(TEXT),
                interval=whole(5, 300),
                timeout=whole(2, 60),
                retries=whole(1, 10),
                startPeriod=whole(0, 300),
            ),
            startTimeout=whole(2, 120),
            stopTimeout=whole(2, 120),
            mountPoints=many(table("sourceVolume containerPath", sourceVolume=TEXT, containerPath=TEXT)),
            logConfiguration=table(
                "logDriver", logDriver=one_of("awslogs"), options=map_of(TEXT)
            ),
        )
    ),
)

# --- compose -------------------------------------------------------------------------------------

COMPOSE = table(
    "services",
    services=map_of(
        table(
            image=TEXT,
            build=table("context", context=TEXT, target=TEXT),
            command={"type": "array", "items": TEXT},
            entrypoint=many(TEXT),
            restart=one_of("no", "always", "on-failure", "unless-stopped"),
            ports=many({"type": "string", "pattern": r"^(\$\{.*\}|[0-9.]+):[0-9]+:[0-9]+$"}),
            expose=many(TEXT),
            volumes=many({"type": "string", "pattern": "^[^:]+:/[^:]+(:ro)?$"}),
            environment=map_of({"type": "string"}),
            secrets=many(table("source target", source=TEXT, target=TEXT)),
            depends_on=map_of(
                table("condition", condition=one_of("service_started", "service_healthy"))
            ),
            network_mode={"type": "string", "pattern": "^service:"},
            read_only={"type": "boolean"},
            tmpfs=many(TEXT),
        )
    ),
    volumes=map_of({"type": "object"}),
    secrets=map_of(table("file", file=TEXT)),
)

# --- Render --------------------------------------------------------------------------------------

RENDER = table(
    "services",
    services=many(
        table(
            "type name runtime plan",
            type=one_of("web", "pserv", "worker"),
            name=NAME,
            runtime=one_of("docker", "image", "python"),
            dockerfilePath=TEXT,
            dockerContext=TEXT,
            plan=one_of("free", "starter", "standard", "pro"),
            healthCheckPath={"type": "string", "pattern": "^/"},
            envVars=many(
                table(
                    "key",
                    key=TEXT,
                    value=TEXT,
                    sync={"type": "boolean"},
                    generateValue={"type": "boolean"},
                    fromService=table(
                        "type name",
                        type=one_of("web", "pserv"),
                        name=NAME,
                        property=one_of("host", "port", "hostport"),
                        envVarKey=TEXT,
                    ),
                )
            ),
        )
    ),
)

# --- Managed Prometheus --------------------------------------------------------------------------

PROMETHEUS = table(
    "apiVersion kind metadata spec",
    apiVersion=one_of("monitoring.googleapis.com/v1beta"),
    kind=one_of("RunMonitoring"),
    metadata=table("name", name=NAME),
    spec=table(
        "endpoints",
        endpoints=many(table("port", port=PORT, path=TEXT, interval=TEXT, timeout=TEXT)),
        targetLabels=table(
            metadata=many(one_of("instance", "revision", "service", "configuration"))
        ),
    ),
)
