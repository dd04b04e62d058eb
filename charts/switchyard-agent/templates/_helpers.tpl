{{/* The release's own name, cut to what a label and a Deployment may have. */}}
{{- define "switchyard-agent.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that never change: the Deployment selects its pods by them. */}}
{{- define "switchyard-agent.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "switchyard-agent.labels" -}}
{{ include "switchyard-agent.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: switchyard
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "switchyard-agent.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "switchyard-agent.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* ClusterRoles have no namespace, so two releases of one name in two namespaces must not share one. */}}
{{- define "switchyard-agent.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "switchyard-agent.fullname" .) -}}
{{- end -}}

{{- define "switchyard-agent.image" -}}
{{- $repository := required "image.repository: name the agent's image" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The webhook runs only with the gates that it adds. */}}
{{- define "switchyard-agent.webhook" -}}
{{- if .Values.readinessGates.webhook.enabled -}}
{{- if not .Values.readinessGates.enabled -}}
{{- fail "readinessGates.webhook.enabled: gates that nobody opens would be added; set readinessGates.enabled, too" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}

{{/* True when the agent makes the webhook's certificate. */}}
{{- define "switchyard-agent.ownCertificate" -}}
{{- if include "switchyard-agent.webhook" . -}}
{{- $manager := .Values.readinessGates.webhook.certManager -}}
{{- if ne (empty $manager.certificateName) (empty $manager.secretName) -}}
{{- fail "readinessGates.webhook.certManager: name both certificateName and secretName, or neither" -}}
{{- end -}}
{{- if not $manager.secretName -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "switchyard-agent.webhookName" -}}
{{- printf "%s-webhook" (include "switchyard-agent.fullname" . | trunc 55 | trimSuffix "-") -}}
{{- end -}}

{{/* True when the hub issues the agent's certificate. */}}
{{- define "switchyard-agent.enrols" -}}
{{- if or .Values.identity.joinToken.secretName .Values.identity.serviceAccountToken.enabled -}}
true
{{- end -}}
{{- end -}}

{{- define "switchyard-agent.identityName" -}}
{{- printf "%s-identity" (include "switchyard-agent.fullname" . | trunc 54 | trimSuffix "-") -}}
{{- end -}}
